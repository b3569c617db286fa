"""What a model file may say, and how its problems are told."""

import copy
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handcar.errors import ModelFileError
from handcar.modelfile.check import canonical, check
from handcar.modelfile.schema import FunctionConfig, ModelFile, RoundSpec, Tensor
from modelfile.examples import DIGITS, changed, encoded


def problems(document):
    with pytest.raises(ModelFileError) as caught:
        check(encoded(document))
    return {problem.path: problem.message for problem in caught.value.problems}


def test_the_example_says_what_it_says():
    model_file = check(encoded(DIGITS))
    assert model_file.name == "digits"
    assert model_file.dataset.file == "digits.npz"
    assert model_file.network.input.shape == (8, 8)
    assert [layer.name for layer in model_file.network.layers] == [
        *("rescaling", "flatten", "dense", "dense_1")
    ]
    assert model_file.loss == FunctionConfig("SparseCategoricalCrossentropy")
    assert model_file.optimizer == FunctionConfig("Adam", {"learning_rate": 0.002})
    assert model_file.epochs == 30


def test_only_name_data_set_network_and_loss_are_required():
    required = {key: DIGITS[key] for key in ("name", "input", "layers", "loss")}
    model_file = check(encoded(required | {"dataset": {"name": "d"}}))
    assert model_file.optimizer == FunctionConfig("Adam")
    assert (model_file.batch_size, model_file.epochs) == (32, None)
    assert (model_file.round, model_file.metrics) == (RoundSpec(1000, 1800), ())
    assert set(problems({})) == {"name", "dataset.name", "layers", "input", "loss"}


def test_the_canonical_form_says_the_same_and_is_always_the_same_bytes():
    model_file = check(encoded(DIGITS))
    assert check(canonical(model_file)) == model_file
    reordered = dict(reversed(DIGITS.items()))
    assert canonical(check(json.dumps(reordered, indent=4).encode())) == canonical(model_file)


def test_different_ways_to_write_the_same_are_the_same():
    picture = {"input": {"shape": [9, 9, 1]}}
    short = {"layer": "Conv2D", "filters": 2, "kernel_size": 3, "kernel_initializer": "he_normal"}
    long = {
        **short,
        "kernel_size": [3, 3],
        "kernel_initializer": {"name": "HeNormal"},
        "strides": 1,
        "activation": None,
        "use_bias": True,
    }
    first, second = (check(encoded(DIGITS | picture | {"layers": [one]})) for one in (short, long))
    assert first == second


def test_the_input_may_be_the_first_layer():
    document = changed("input", to=None)
    document["layers"].insert(0, {"layer": "Input", "shape": [8, 8]})
    assert check(encoded(document)) == check(encoded(DIGITS))


def test_layers_may_name_what_they_read():
    layers = [
        {"layer": "Flatten", "name": "row"},
        {"layer": "Dense", "units": 64, "name": "left"},
        {"layer": "Add", "inputs": ["row", "left"]},
        {"layer": "Dense", "units": 64, "name": "twice", "inputs": [["add"], ["twice"]]},
    ]
    network = check(encoded(DIGITS | {"layers": layers})).network
    assert network.layers[2].calls == ((Tensor("row"), Tensor("left")),)
    assert network.output == Tensor("twice", 1)
    assert not network.is_chain


def test_attention_to_itself_needs_no_inputs():
    layers = [{"layer": "MultiHeadAttention", "num_heads": 2, "key_dim": 4}]
    network = check(encoded(DIGITS | {"layers": layers})).network
    assert network.layers[0].calls == ((Tensor("input"), Tensor("input")),)


def test_every_problem_is_told_at_once_and_by_its_path():
    document = changed("layers", 2, "units", to=1.5)
    document["layers"][1]["layer"] = "Flaten"
    document["layers"][3]["activation"] = "softmx"
    document["dataset"]["validation"] = 2
    document["epoch"] = 3
    found = problems(document)
    assert set(found) == {
        *("layers[2].units", "layers[1].layer", "layers[3].activation"),
        *("dataset.validation", "epoch"),
    }
    assert "did you mean 'Flatten'?" in found["layers[1].layer"]
    assert "did you mean 'softmax'?" in found["layers[3].activation"]
    assert "did you mean 'epochs'?" in found["epoch"]
    assert found["layers[2].units"] == "must be a whole number from 1 to 1000000, got 1.5"


def test_a_shape_problem_has_the_path_of_its_layer():
    layers = [{"layer": "Flatten"}, {"layer": "Conv2D", "filters": 2, "kernel_size": 3}]
    found = problems(DIGITS | {"layers": layers})
    assert found == {
        "layers[1]": "Conv2D expects 3 dimensions (height, width, channels), got (64,)"
    }


WRONG = [
    (("name",), "Digits"),
    (("name",), "-digits"),
    (("name",), "a" * 64),
    (("description",), "a\u202eb"),
    (("description",), "\ud800"),
    (("dataset", "file"), "../secret.npz"),
    (("dataset", "file"), "/etc/passwd"),
    (("dataset", "file"), "http://example.com/a.npz"),
    (("input", "shape"), []),
    (("input", "shape"), [8, None]),
    (("input", "shape"), [0]),
    (("input", "dtype"), "float64"),
    (("input", "name"), "an input"),
    (("layers",), []),
    (("layers", 0), "Flatten"),
    (("layers", 0, "name"), "a/b"),
    (("layers", 0, "inputs"), "input"),
    (("layers", 0, "inputs"), ["nothing"]),
    (("layers", 0, "inputs"), ["input:1"]),
    (("layers", 0, "inputs"), ["dense_1"]),
    (("layers", 0, "inputs"), ["input", "input"]),
    (("layers", 3, "inputs"), ["input"]),
    (("layers", 0, "scale"), True),
    (("layers", 2, "kernel_regularizer"), {"name": "L2", "l3": 1}),
    (("layers", 2, "kernel_regularizer"), {"name": "L2", "l2": -1}),
    (("loss",), "lambda"),
    (("loss",), {}),
    (("optimizer",), "sdg"),
    (("optimizer",), {"name": "SGD", "learning_rate": {"name": "CosineDecay"}}),
    (("optimizer",), {"name": "SGD", "clipnorm": 1, "clipvalue": 1}),
    (("metrics",), "accuracy"),
    (("metrics",), ["accuracy", "acc"]),
    (("metrics",), ["f1"]),
    (("batch_size",), 0),
    (("batch_size",), True),
    (("epochs",), 0),
    (("round", "max_steps"), 0),
    (("round",), None),
    (("output",), "dense"),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=str)
def test_a_value_out_of_range_is_refused(path, value):
    document = changed(path[0], to="x") if path == ("output",) else copy.deepcopy(DIGITS)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert problems(document)


def test_pieces_of_a_schedule_must_fit_each_other():
    rate = {"name": "PiecewiseConstantDecay", "boundaries": [20, 10], "values": [0.1, 0.2]}
    found = problems(DIGITS | {"optimizer": {"name": "SGD", "learning_rate": rate}})
    assert set(found) == {
        "optimizer.learning_rate.boundaries",
        "optimizer.learning_rate.values",
    }


def test_two_layers_of_one_name_are_refused():
    document = changed("layers", 2, "name", to="dense_1")
    document["layers"][3]["name"] = "dense_1"
    assert problems(document) == {"layers[3].name": "'dense_1' is used twice"}


def test_a_layer_that_leads_nowhere_is_refused():
    document = changed("layers", 3, "inputs", to=["flatten"])
    assert problems(document) == {"layers[2]": "nothing leads from 'dense' to the output"}


def test_a_circle_is_refused():
    document = changed("layers", 1, "inputs", to=["dense"])
    assert "circle" in problems(document)["layers[1]"]


def test_backward_layer_must_be_the_forward_one_turned():
    forward = {"layer": "LSTM", "units": 3}
    layer = {"layer": "Bidirectional", "of": forward}
    document = DIGITS | {"layers": [{**layer, "backward_layer": {**forward, "units": 4}}]}
    assert "backward" in problems(document)["layers[0]"]
    turned = {**forward, "go_backwards": True}
    check(encoded(DIGITS | {"layers": [{**layer, "backward_layer": turned}]}))


def test_the_check_loads_neither_keras_nor_a_backend():
    code = (
        "import sys, handcar.modelfile.check;"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**14), 10**14),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["Dense", "Lambda", "keras.layers.Dense", "softmax", "__class__", "input:1"]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from([path for path in places(DIGITS) if path]), value=values)
def test_any_change_gives_a_model_file_or_a_told_problem(path, value):
    try:
        model_file = check(encoded(changed(*path, to=value)))
    except ModelFileError as error:
        assert error.problems  # noqa: PT017
    else:
        assert isinstance(model_file, ModelFile)
        assert check(canonical(model_file)) == model_file


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=40), values.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_give_a_model_file_or_a_told_problem(raw):
    with pytest.raises(ModelFileError):
        check(raw)
