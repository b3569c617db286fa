"""A model file becomes the Keras model that it describes, and its weights go in and out."""

import json

import keras
import numpy as np
import pytest

from handcar.errors import ModelFileError
from handcar.modelfile import build as building
from handcar.modelfile.build import build, get_weights, initial_weights, set_weights
from handcar.modelfile.check import canonical, check
from handcar.modelfile.shapes import infer
from modelfile.examples import DIGITS, changed, encoded, with_keras
from modelfile.keras_models import MODELS, attention_by_name, perceptron


def digits(**more):
    return check(encoded(DIGITS | more))


def records(model, count=4):
    chance = np.random.default_rng(0)
    shape = (count, *model.input_shape[1:])
    if "int" in str(model.inputs[0].dtype):
        return chance.integers(0, 20, shape).astype("int32")
    return chance.normal(size=shape).astype("float32")


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_keras_json_is_built_again_and_computes_the_same(make):
    original = make()
    model_file = check(encoded(with_keras(original)))
    rebuilt = build(model_file)
    for layer in rebuilt.layers:
        if layer.weights:
            layer.set_weights(original.get_layer(layer.name).get_weights())
    x = records(original)
    np.testing.assert_allclose(
        np.asarray(rebuilt(x), "float32"), np.asarray(original(x), "float32"), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_weights_come_in_the_order_of_the_original_model(make):
    if make is attention_by_name:
        pytest.skip("Keras sorts inputs that are passed by name: key, query, value")
    original = make()
    layout = infer(check(encoded(with_keras(original)))).layout
    assert [tensor.shape for tensor in layout.tensors] == [
        tuple(weight.shape) for weight in original.weights
    ]


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetV2B0"])
def test_the_json_of_a_known_network_is_accepted(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3))
    model_file = check(encoded(with_keras(model)))
    assert [tensor.shape for tensor in infer(model_file).layout.tensors] == [
        tuple(weight.shape) for weight in model.weights
    ]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_canonical_form_of_keras_json_says_the_same(make):
    model_file = check(encoded(with_keras(make())))
    assert check(canonical(model_file)) == model_file
    assert canonical(check(canonical(model_file))) == canonical(model_file)


def test_keras_json_may_be_given_as_a_string():
    model = perceptron()
    assert check(encoded(with_keras(model.to_json()))) == check(encoded(with_keras(model)))


def test_a_frozen_layer_is_not_trained():
    model_file = check(encoded(changed("layers", 2, "trainable", to=False)))
    model = build(model_file)
    assert [weight.path.split("/")[-2] for weight in model.trainable_weights] == ["dense_1"] * 2
    kinds = [tensor.kind for tensor in infer(model_file).layout.tensors]
    assert kinds == ["statistic", "statistic", "trainable", "trainable"]


def test_the_same_seed_gives_the_same_weights():
    model_file = digits()
    layout = infer(model_file).layout
    first, again, other = (
        initial_weights(build(model_file, seed=seed), layout) for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_weights_come_out_as_they_went_in():
    model_file = digits()
    layout = infer(model_file).layout
    model = build(model_file)
    flat = np.arange(layout.size, dtype=np.float32)
    set_weights(model, layout, flat)
    assert (get_weights(model, layout) == flat).all()


def test_the_model_keeps_its_weights_when_the_array_changes_later():
    model_file = digits()
    layout = infer(model_file).layout
    model = build(model_file)
    flat = np.ones(layout.size, dtype=np.float32)
    set_weights(model, layout, flat)
    flat[:] = 7
    assert (get_weights(model, layout) == 1).all()


def test_weights_of_another_size_are_refused():
    model_file = digits()
    layout = infer(model_file).layout
    with pytest.raises(ValueError, match="4810 weights"):
        set_weights(build(model_file), layout, np.zeros(3, np.float32))


def learnable(count=64):
    chance = np.random.default_rng(0)
    y = chance.integers(0, 10, count)
    x = np.zeros((count, 8, 8), "float32")
    x[np.arange(count), 0, y % 8] = 16
    x[np.arange(count), 1, y // 8] = 16
    return x, y


def test_a_model_learns_and_reports_its_accuracy():
    model = build(digits(optimizer={"name": "adam", "learning_rate": 0.05}), seed=1)
    x, y = learnable()
    model.fit(x, y, epochs=15, verbose=0)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.9


def test_accuracy_with_logits_of_two_classes_cuts_at_zero():
    layers = [{"layer": "Flatten"}, {"layer": "Dense", "units": 1, "kernel_initializer": "zeros"}]
    loss = {"name": "BinaryCrossentropy", "from_logits": True}
    model = build(digits(layers=layers, loss=loss))
    model.layers[-1].bias.assign([0.3])
    x = np.zeros((4, 8, 8), "float32")
    result = model.evaluate(x, np.ones((4, 1)), verbose=0, return_dict=True)
    assert result["accuracy"] == 1.0


SCHEDULES = [
    {"name": "CosineDecay", "initial_learning_rate": 0.1, "decay_steps": 10},
    {"name": "exponential_decay", "initial_learning_rate": 1, "decay_steps": 9, "decay_rate": 0.5},
    {"name": "PiecewiseConstantDecay", "boundaries": [10, 20], "values": [0.1, 0.05, 0.01]},
    {"name": "PolynomialDecay", "initial_learning_rate": 0.1, "decay_steps": 10, "power": 2},
    {"name": "InverseTimeDecay", "initial_learning_rate": 1, "decay_steps": 9, "decay_rate": 0.5},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["name"])
def test_a_schedule_may_be_the_learning_rate(schedule):
    model_file = digits(optimizer={"name": "SGD", "learning_rate": schedule})
    assert check(canonical(model_file)) == model_file
    rate = build(model_file).optimizer._learning_rate
    assert isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad", "Nadam", "Adamax", "Lion"])
def test_an_optimizer_is_the_one_that_was_named(name):
    assert type(build(digits(optimizer=name)).optimizer).__name__ == name


def test_what_keras_itself_refuses_is_a_model_file_error(monkeypatch):
    def refuse(*_):
        raise ValueError("no such thing")

    monkeypatch.setattr(building, "build_network", refuse)
    with pytest.raises(ModelFileError, match="no such thing"):
        build(digits())


def test_a_model_with_other_weights_than_inferred_is_refused():
    layout = infer(digits()).layout
    other = build(check(encoded(changed("layers", 2, "units", to=63))))
    with pytest.raises(ModelFileError, match=r"weight 0 should be .*64, 64"):
        building.need_layout(other, layout)


def test_keras_code_in_to_json_is_never_run():
    given = json.loads(perceptron().to_json())
    given["config"]["layers"][3]["config"]["activation"] = {
        "module": "builtins",
        "class_name": "function",
        "config": "relu",
    }
    with pytest.raises(ModelFileError, match=r"layers\[3\].config.activation"):
        check(encoded(with_keras(given)))
