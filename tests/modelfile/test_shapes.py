"""What we infer without Keras is what Keras builds."""

import json
import math

import numpy as np
import pytest

from handcar.errors import ModelFileError
from handcar.modelfile.allowlist import LAYERS
from handcar.modelfile.build import build
from handcar.modelfile.check import check
from handcar.modelfile.rulebook import RULES
from handcar.modelfile.shapes import infer

PICTURE = [12, 10, 4]
SEQUENCE = [9, 4]
ROW = [6]


def document(shape, layers, *, dtype="float32", **more):
    return {
        "name": "test",
        "dataset": {"name": "data"},
        "input": {"shape": shape, "dtype": dtype},
        "layers": layers,
        "loss": "mse",
        **more,
    }


def read(shape, layers, **more):
    return check(json.dumps(document(shape, layers, **more)).encode())


def problem_of(shape, layers, **more):
    with pytest.raises(ModelFileError) as caught:
        read(shape, layers, **more)
    return str(caught.value)


CASES = [
    (ROW, "Dense", {"units": 3}),
    (SEQUENCE, "Dense", {"units": 3, "use_bias": False}),
    (SEQUENCE, "Conv1D", {"filters": 6, "kernel_size": 3}),
    (SEQUENCE, "Conv1D", {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"}),
    (SEQUENCE, "Conv1D", {"filters": 6, "kernel_size": 3, "padding": "causal", "strides": 2}),
    (PICTURE, "Conv2D", {"filters": 6, "kernel_size": 3}),
    (PICTURE, "Conv2D", {"filters": 6, "kernel_size": [3, 2], "strides": 2, "padding": "same"}),
    (PICTURE, "Conv2D", {"filters": 6, "kernel_size": 3, "dilation_rate": 2, "use_bias": False}),
    (SEQUENCE, "SeparableConv1D", {"filters": 5, "kernel_size": 3, "depth_multiplier": 2}),
    (PICTURE, "SeparableConv2D", {"filters": 5, "kernel_size": 3, "depth_multiplier": 2}),
    (PICTURE, "SeparableConv2D", {"filters": 5, "kernel_size": 3, "strides": 2}),
    (PICTURE, "DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2}),
    (PICTURE, "DepthwiseConv2D", {"kernel_size": 3, "strides": 2, "padding": "same"}),
    (PICTURE, "Conv2DTranspose", {"filters": 3, "kernel_size": 3}),
    (PICTURE, "Conv2DTranspose", {"filters": 3, "kernel_size": [2, 5], "strides": 3}),
    (PICTURE, "Conv2DTranspose", {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"}),
    (
        PICTURE,
        "Conv2DTranspose",
        {"filters": 3, "kernel_size": 3, "strides": 2, "output_padding": 1},
    ),
    (SEQUENCE, "MaxPooling1D", {}),
    (SEQUENCE, "MaxPooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}),
    (PICTURE, "MaxPooling2D", {}),
    (PICTURE, "MaxPooling2D", {"pool_size": 3, "strides": 2}),
    (SEQUENCE, "AveragePooling1D", {"pool_size": 2}),
    (PICTURE, "AveragePooling2D", {"pool_size": [3, 2], "padding": "same"}),
    (SEQUENCE, "GlobalAveragePooling1D", {}),
    (PICTURE, "GlobalAveragePooling2D", {"keepdims": True}),
    (SEQUENCE, "GlobalMaxPooling1D", {"keepdims": True}),
    (PICTURE, "GlobalMaxPooling2D", {}),
    (PICTURE, "Flatten", {}),
    (PICTURE, "Reshape", {"target_shape": [-1, 8]}),
    (PICTURE, "Permute", {"dims": [3, 1, 2]}),
    (ROW, "RepeatVector", {"n": 4}),
    (SEQUENCE, "ZeroPadding1D", {"padding": [2, 3]}),
    (PICTURE, "ZeroPadding2D", {"padding": [[1, 2], [3, 4]]}),
    (SEQUENCE, "Cropping1D", {"cropping": 2}),
    (PICTURE, "Cropping2D", {"cropping": [1, 2]}),
    (SEQUENCE, "UpSampling1D", {"size": 3}),
    (PICTURE, "UpSampling2D", {"size": [2, 3], "interpolation": "bilinear"}),
    (ROW, "Dropout", {"rate": 0.5}),
    (PICTURE, "Dropout", {"rate": 0.5, "noise_shape": [None, 1, 1, None]}),
    (ROW, "AlphaDropout", {"rate": 0.5}),
    (ROW, "GaussianDropout", {"rate": 0.5}),
    (ROW, "GaussianNoise", {"stddev": 0.1}),
    (SEQUENCE, "SpatialDropout1D", {"rate": 0.5}),
    (PICTURE, "SpatialDropout2D", {"rate": 0.5}),
    (PICTURE, "BatchNormalization", {}),
    (PICTURE, "BatchNormalization", {"axis": 1, "center": False}),
    (PICTURE, "BatchNormalization", {"trainable": False, "scale": False}),
    (SEQUENCE, "LayerNormalization", {}),
    (PICTURE, "LayerNormalization", {"axis": [1, 3], "center": False}),
    (PICTURE, "GroupNormalization", {"groups": 2}),
    (PICTURE, "GroupNormalization", {"groups": -1, "scale": False}),
    (SEQUENCE, "RMSNormalization", {}),
    (SEQUENCE, "UnitNormalization", {}),
    (ROW, "Normalization", {"mean": [0, 1, 2, 3, 4, 5], "variance": [1, 1, 1, 1, 1, 2]}),
    (SEQUENCE, "Normalization", {"mean": 2, "variance": 4}),
    (PICTURE, "Rescaling", {"scale": [1, 2, 3, 4], "offset": -1}),
    (SEQUENCE, "Masking", {"mask_value": 1}),
    (SEQUENCE, "SimpleRNN", {"units": 3}),
    (SEQUENCE, "LSTM", {"units": 3, "return_sequences": True}),
    (SEQUENCE, "LSTM", {"units": 3, "use_bias": False, "dropout": 0.1}),
    (SEQUENCE, "GRU", {"units": 3}),
    (SEQUENCE, "GRU", {"units": 3, "reset_after": False, "go_backwards": True}),
    (SEQUENCE, "Bidirectional", {"of": {"layer": "LSTM", "units": 3}}),
    (
        SEQUENCE,
        "Bidirectional",
        {"of": {"layer": "GRU", "units": 3, "return_sequences": True}, "merge_mode": "sum"},
    ),
    (SEQUENCE, "TimeDistributed", {"of": {"layer": "Dense", "units": 3}}),
    (
        [3, 8, 8, 2],
        "TimeDistributed",
        {"of": {"layer": "Conv2D", "filters": 3, "kernel_size": 3}},
    ),
    (SEQUENCE, "TimeDistributed", {"of": {"layer": "Dense", "units": 3}, "trainable": False}),
    (SEQUENCE, "MultiHeadAttention", {"num_heads": 2, "key_dim": 3}),
    (
        SEQUENCE,
        "MultiHeadAttention",
        {"num_heads": 2, "key_dim": 3, "value_dim": 5, "output_shape": 7, "use_bias": False},
    ),
    (PICTURE, "MultiHeadAttention", {"num_heads": 2, "key_dim": 3, "attention_axes": [1, 2]}),
    (SEQUENCE, "MultiHeadAttention", {"num_heads": 1, "key_dim": 3, "use_causal_mask": True}),
    (ROW, "Activation", {"activation": "gelu"}),
    (ROW, "ReLU", {"max_value": 6}),
    (ROW, "LeakyReLU", {}),
    (PICTURE, "PReLU", {}),
    (PICTURE, "PReLU", {"shared_axes": [1, 2]}),
    (ROW, "ELU", {}),
    (SEQUENCE, "Softmax", {"axis": 1}),
]
MERGING = [
    ("Add", {}),
    ("Subtract", {}),
    ("Multiply", {}),
    ("Average", {}),
    ("Maximum", {}),
    ("Minimum", {}),
    ("Concatenate", {}),
    ("Concatenate", {"axis": 1}),
    ("Dot", {"axes": 2}),
    ("Dot", {"axes": [1, 1], "normalize": True}),
]


def assert_as_keras_builds(model_file, *, dtype="float32"):
    sizes = infer(model_file)
    model = build(model_file)
    assert [tensor.shape for tensor in sizes.layout.tensors] == [
        tuple(weight.shape) for weight in model.weights
    ]
    trainable = {id(weight) for weight in model.trainable_weights}
    assert [tensor.kind == "trainable" for tensor in sizes.layout.tensors] == [
        id(weight) in trainable for weight in model.weights
    ]
    output = model(np.ones((2, *sizes.input_shape), dtype=dtype))
    assert tuple(output.shape) == (2, *sizes.output_shape) == (2, *model.output_shape[1:])


def ending(layers):
    """A small trained layer at the end, so that there is something to train."""
    return [*layers, {"layer": "Flatten", "name": "row"}, {"layer": "Dense", "units": 1}]


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize(("shape", "name", "arguments"), CASES)
def test_a_layer_has_the_shapes_that_keras_gives_it(shape, name, arguments):
    layer = {"layer": name, "name": "tested", **arguments}
    assert_as_keras_builds(read(shape, ending([layer])))
    try:
        alone = read(shape, [layer])
    except ModelFileError as error:
        assert "weights to train" in str(error)  # noqa: PT017
    else:
        assert_as_keras_builds(alone)


@pytest.mark.parametrize(("name", "arguments"), MERGING)
def test_a_merging_layer_has_the_shape_that_keras_gives_it(name, arguments):
    layers = [
        {"layer": "Dense", "units": 4, "name": "left"},
        {"layer": "Dense", "units": 4, "name": "right", "inputs": ["input"]},
        {"layer": name, "inputs": ["left", "right"], **arguments},
    ]
    assert_as_keras_builds(read(SEQUENCE, layers))


def test_an_embedding_has_the_shapes_that_keras_gives_it():
    layers = [{"layer": "Embedding", "input_dim": 20, "output_dim": 3, "mask_zero": True}]
    assert_as_keras_builds(read([7], layers, dtype="int32"), dtype="int32")


def test_every_layer_of_the_table_is_compared_with_keras():
    compared = {name for _, name, _ in CASES} | {name for name, _ in MERGING} | {"Embedding"}
    assert compared == set(LAYERS)


def test_every_layer_of_the_table_has_a_rule_for_its_shapes():
    assert set(RULES) == set(LAYERS)


def test_layers_beside_each_other_come_in_the_order_of_keras():
    layers = [
        {"layer": "Dense", "units": 4, "name": "deep"},
        {"layer": "Dense", "units": 4, "name": "shallow", "inputs": ["input"]},
        {"layer": "Dense", "units": 5, "name": "middle", "inputs": ["deep"]},
        {"layer": "Dense", "units": 6, "name": "other", "inputs": ["shallow"]},
        {"layer": "Concatenate", "name": "both", "inputs": ["other", "middle"]},
        {"layer": "Concatenate", "name": "all", "inputs": ["shallow", "both"]},
        {"layer": "Dense", "units": 2, "name": "end"},
    ]
    model_file = read(ROW, layers)
    assert_as_keras_builds(model_file)
    names = [tensor.name for tensor in infer(model_file).layout.tensors]
    assert names[0::2] == [weight.path for weight in build(model_file).weights][0::2]


def test_a_shared_layer_has_its_weights_once():
    layers = [
        {"layer": "Dense", "units": 6, "name": "shared", "inputs": [["input"], ["shared"]]},
        {"layer": "Dense", "units": 2, "name": "end", "inputs": ["shared:1"]},
    ]
    model_file = read(ROW, layers)
    assert_as_keras_builds(model_file)
    assert infer(model_file).layout.size == 6 * 6 + 6 + 6 * 2 + 2


def test_moving_statistics_are_statistics_and_the_rest_is_trained():
    layout = infer(read(PICTURE, [{"layer": "BatchNormalization", "name": "norm"}])).layout
    assert [(tensor.name, tensor.kind) for tensor in layout.tensors] == [
        ("norm/gamma", "trainable"),
        ("norm/beta", "trainable"),
        ("norm/moving_mean", "statistic"),
        ("norm/moving_variance", "statistic"),
    ]


def test_activations_count_every_layers_output_and_the_input():
    layers = [{"layer": "Flatten"}, {"layer": "Dense", "units": 10}]
    assert infer(read([8, 8], layers)).activations_per_record == 64 + 64 + 10


def test_attention_counts_its_scores():
    layers = [{"layer": "MultiHeadAttention", "num_heads": 2, "key_dim": 3}]
    activations = infer(read([1000, 4], layers)).activations_per_record
    assert activations > 2 * 1000 * 1000


DENSE = {"layer": "Dense", "units": 4}
REFUSED = [
    ([64], {"layer": "Conv2D", "filters": 3, "kernel_size": 3}, "expects 3 dimensions"),
    ([4, 4, 1], {"layer": "Conv2D", "filters": 3, "kernel_size": 5}, "does not fit"),
    (PICTURE, {"layer": "Conv2D", "filters": 3, "kernel_size": 1, "groups": 3}, "groups"),
    (
        PICTURE,
        {"layer": "Conv2D", "filters": 3, "kernel_size": 1, "strides": 2, "dilation_rate": 2},
        "both",
    ),
    (ROW, {"layer": "Reshape", "target_shape": [4, 4]}, "does not hold"),
    (ROW, {"layer": "Permute", "dims": [2]}, "each axis"),
    (PICTURE, {"layer": "Cropping2D", "cropping": 5}, "leaves nothing"),
    (PICTURE, {"layer": "Dropout", "rate": 0.5, "noise_shape": [1, 1]}, "noise_shape"),
    (ROW, {"layer": "LSTM", "units": 3}, "expects 2 dimensions"),
    (ROW, {"layer": "BatchNormalization", "axis": 0}, "axis 0"),
    (PICTURE, {"layer": "GroupNormalization", "groups": 3}, "divide"),
    (ROW, {"layer": "Normalization", "mean": [1, 2], "variance": [1, 2]}, "mean"),
    (ROW, {"layer": "Dot", "axes": 1, "inputs": ["input", "tail"]}, "same size"),
    (ROW, {"layer": "Add", "inputs": ["input", "tail"]}, "same shape"),
    (
        SEQUENCE,
        {"layer": "MultiHeadAttention", "num_heads": 1, "key_dim": 2, "attention_axes": [2]},
        "attention_axes",
    ),
]


@pytest.mark.parametrize(("shape", "layer", "said"), REFUSED)
def test_a_layer_that_does_not_fit_is_refused_by_its_path(shape, layer, said):
    text = problem_of(shape, [{**DENSE, "name": "tail"}, {"inputs": ["input"], **layer}])
    if "nothing leads" in text:
        text = problem_of(shape, [layer])
    assert said in text
    assert text.startswith("layers[")


TOO_LARGE = [
    ([1000], [{"layer": "Dense", "units": 300_000}], "200,000,000 weights"),
    ([10], [{"layer": "RepeatVector", "n": 1_000_000}, {**DENSE, "units": 99}], "100,000,000"),
    ([100, 100, 9], [{"layer": "UpSampling2D", "size": 1000}, DENSE], "100,000,000"),
    ([1000, 1000, 1], [{"layer": "ZeroPadding2D", "padding": 1000}] * 20, "100,000,000"),
    ([10, 1], [{"layer": "LSTM", "units": 8000}], "Orthogonal is too slow"),
    ([10], [{**DENSE, "units": 9999, "kernel_initializer": "identity"}] * 3, "200,000,000"),
    ([5000, 4], [{"layer": "TimeDistributed", "of": DENSE}], "at most 1000 steps"),
    ([1000, 1000], [{"layer": "Flatten"}, {"layer": "RepeatVector", "n": 2}] * 2, "dimension"),
]


@pytest.mark.parametrize(("shape", "layers", "said"), TOO_LARGE)
def test_a_network_that_is_too_large_is_refused(shape, layers, said):
    assert said in problem_of(shape, layers)


def test_an_orthogonal_bias_is_refused_because_keras_cannot_start_it():
    assert "Orthogonal" in problem_of(ROW, [{**DENSE, "bias_initializer": "orthogonal"}])


def test_a_batch_that_no_machine_holds_is_refused():
    text = problem_of([300, 300, 3], [{"layer": "Flatten"}, DENSE], batch_size=60_000)
    assert text.startswith("batch_size")


def test_whole_numbers_must_be_embedded_or_rescaled_first():
    assert "Rescaling" in problem_of([8, 8], [{"layer": "Flatten"}, DENSE], dtype="uint8")
    rescaled = [{"layer": "Flatten"}, {"layer": "Rescaling", "scale": 0.1}, DENSE]
    assert_as_keras_builds(read([8, 8], rescaled, dtype="uint8"), dtype="uint8")


def test_a_network_with_nothing_to_train_is_refused():
    assert "weights to train" in problem_of([8, 8], [{"layer": "Flatten"}])


def test_weights_are_counted_without_making_them():
    layers = [{"layer": "Dense", "units": 100_000}]
    assert infer(read([1000], layers)).layout.size == math.prod((1000, 100_000)) + 100_000
