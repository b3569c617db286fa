"""Model files that want to harm: each is refused, and by the check, before Keras is there."""

import importlib
import json
import pkgutil
import time

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handcar.errors import ModelFileError
from handcar.modelfile.check import check
from handcar.modelfile.functions import ACTIVATION
from modelfile.examples import DIGITS, changed, encoded, with_keras
from modelfile.keras_models import residual, transformer


def refused(raw, said=None):
    with pytest.raises(ModelFileError, match=said):
        check(raw if isinstance(raw, bytes) else encoded(raw))


def layer(class_name, config, *, module="keras.layers", **more):
    return {"module": module, "class_name": class_name, "config": config, **more}


def keras_file(*layers):
    start = layer("InputLayer", {"batch_shape": [None, 4], "dtype": "float32", "name": "start"})
    config = {"name": "s", "trainable": True, "layers": [start, *layers]}
    model = {"module": "keras", "class_name": "Sequential", "config": config}
    return with_keras(model)


DENSE = layer("Dense", {"name": "d", "units": 2, "activation": "relu"})
CODE = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None}}
FUNCTION = {"module": "builtins", "class_name": "function", "config": "eval"}

# One for each row of known holes in Keras's own loading.
HOLES = {
    "CVE-2024-3660 marshalled code": layer("Lambda", {"name": "l", "function": CODE}),
    "CVE-2025-1550 any module": layer("system", {"name": "l", "units": 2}, module="os"),
    "CVE-2025-1550 in a known class": layer("Dense", {"units": 2}, module="subprocess"),
    "CVE-2025-1550 registered": {**DENSE, "registered_name": "os>system", "fn": FUNCTION},
    "CVE-2025-8747 gadget": layer(
        "Dense", {"units": 2, "activation": {"class_name": "get_file", "module": "keras.utils"}}
    ),
    "CVE-2025-9906 unlock": layer(
        "Dense", {"units": 2, "activation": "keras.config.enable_unsafe_deserialization"}
    ),
    "CVE-2026-1462 outside model": layer("TFSMLayer", {"name": "l", "filepath": "https://x"}),
    "keras#23048 torch": layer("TorchModuleWrapper", {"name": "l", "module": "x"}),
    "keras#23050 vocabulary": layer("StringLookup", {"name": "l", "vocabulary": "/etc/passwd"}),
    "keras#23654 constructor": layer("Dense", {"units": 2, "activation": "keras.layers.TFSMLayer"}),
    "function object": layer("Dense", {"units": 2, "activation": FUNCTION}),
    "type": layer("Dense", {"units": {"class_name": "__typespec__", "config": {}}}),
    "bytes": layer("Rescaling", {"scale": {"class_name": "__bytes__", "config": {"value": "a"}}}),
    "quantised": layer("Dense", {"units": 2, "quantization_config": {"class_name": "x"}}),
    "low rank": layer("Dense", {"units": 2, "lora_rank": 4}),
    "dtype": layer("Dense", {"units": 2, "dtype": "int8"}),
    "dtype object": layer(
        "Dense", {"units": 2, "dtype": {"class_name": "QuantizedDTypePolicy", "config": {}}}
    ),
    "custom objects": {**DENSE, "custom_objects": {"a": "b"}},
    "wrapper": layer("SpectralNormalization", {"name": "l", "layer": DENSE}),
    "inside a wrapper": layer(
        "TimeDistributed", {"name": "l", "layer": layer("Lambda", {"function": CODE})}
    ),
    "operation": layer("Relu", {"name": "l"}, module="keras.src.ops.nn"),
    "nested model": layer("Sequential", {"name": "l", "layers": []}, module="keras"),
}


@pytest.mark.parametrize("name", HOLES)
def test_a_file_for_each_known_hole_is_refused(name):
    check(encoded(keras_file(DENSE)))
    refused(keras_file(HOLES[name]), r"keras\.config\.layers\[1\]")


@pytest.mark.parametrize("name", ["Lambda", "TFSMLayer", "StringLookup", "JaxLayer", "Hashing"])
def test_a_dangerous_layer_is_refused_by_name_and_with_the_reason(name):
    refused(changed("layers", 0, to={"layer": name}), rf"{name} is refused: ")


def public_names():
    """Every name that Keras exports, with its dotted path."""
    for module in (keras, *public_modules(keras)):
        for name in dir(module):
            if not name.startswith("_"):
                yield f"{module.__name__}.{name}"
                yield name


def public_modules(package):
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if found.name.split(".")[1] in ("src", "_tf_keras", "legacy"):
            continue
        module = importlib.import_module(found.name)
        yield module
        if found.ispkg:
            yield from public_modules(module)


def test_every_name_that_keras_exports_is_refused_as_an_activation():
    allowed = {*ACTIVATION.values, *ACTIVATION.aliases}
    names = set(public_names())
    assert len(names) > 1000
    for name in sorted(names - allowed):
        refused(changed("layers", 2, "activation", to=name), r"layers\[2\].activation: must be")


SLOTS = [
    ("loss",),
    ("optimizer",),
    ("metrics", 0),
    ("layers", 2, "kernel_initializer"),
    ("layers", 2, "kernel_regularizer"),
    ("layers", 2, "kernel_constraint"),
]


@pytest.mark.parametrize("slot", SLOTS, ids=str)
def test_functions_that_do_things_are_refused_wherever_a_name_may_stand(slot):
    for name in ("get_file", "set_floatx", "keras.config.set_backend", "load_data", "Lambda"):
        refused(changed(*slot, to=name))
        refused(changed(*slot, to={"class_name": name, "module": "keras.utils", "config": {}}))
        refused(changed(*slot, to={"name": name}))


def test_too_many_bytes_are_refused_before_parsing():
    refused(b" " * 2_000_001, "at most 2,000,000 bytes")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["lists", "objects"])
def test_deep_nesting_is_refused_before_parsing(opening):
    refused(opening * 200_000, "nested at most 32 deep")


def test_brackets_in_texts_do_not_count_as_nesting():
    check(encoded(changed("description", to="[" * 100 + '\\"[' * 10)))


def test_deep_nesting_in_a_text_of_keras_json_is_refused():
    refused(with_keras("[" * 500_000), "nested at most 32 deep")


@pytest.mark.parametrize(
    "raw", [b'"' + b'\\"' * 900_000, b'"' * 1_000_001, b'["' * 400_000], ids=len
)
def test_unfinished_texts_take_no_long_time(raw):
    start = time.perf_counter()
    refused(raw)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e999", "too large"),
        ("9" * 16, "15 digits"),
        ("9" * 100_000, "15 digits"),
        ("0." + "1" * 100_000, "40 characters"),
    ],
    ids=["nan", "infinity", "minus", "overflow", "digits", "many", "fraction"],
)
def test_a_number_that_is_none_is_refused(number, said):
    refused(json.dumps(changed("epochs", to=123)).replace("123", number).encode(), said)


def test_a_key_given_twice_is_refused():
    refused(json.dumps(DIGITS).replace("{", '{"name": "other",', 1).encode(), "'name'.* twice")


def test_bytes_that_are_not_utf_8_are_refused():
    refused(b'{"name": "\xff"}', "UTF-8")


def test_a_hundred_problems_are_enough():
    with pytest.raises(ModelFileError) as caught:
        check(encoded(DIGITS | {"layers": [{"layer": "Nothing", "a": 1}] * 800}))
    assert len(caught.value.problems) == 100


def test_a_long_value_is_told_in_short():
    with pytest.raises(ModelFileError) as caught:
        check(encoded(changed("layers", 2, "activation", to="x" * 1_000_000)))
    assert len(str(caught.value)) < 1000


def test_a_network_too_long_for_keras_is_refused():
    refused(DIGITS | {"layers": [{"layer": "Flatten"}] * 801}, "1 to 800 layers")
    calls = [["input"], *[["d"]] * 900]
    refused(DIGITS | {"layers": [{"layer": "Dense", "units": 8, "name": "d", "inputs": calls}]})


def test_a_layer_that_reads_another_models_layer_is_refused():
    given = json.loads(transformer().to_json())
    text = json.dumps(given).replace('["embedding', '["elsewhere')
    refused(with_keras(text), "reads 'elsewhere")


def test_several_inputs_or_outputs_are_refused():
    given = json.loads(residual().to_json())
    given["config"]["output_layers"] = [given["config"]["output_layers"]] * 2
    refused(with_keras(given), "output_layers: must be one")


KERAS_FILE = json.loads(json.dumps(with_keras(transformer())))


def places(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


junk = st.one_of(
    st.none(),
    st.integers(-2, 10**9),
    st.text(max_size=4),
    st.just([]),
    st.just({}),
    st.just(FUNCTION),
    st.just(["x", 0, 0]),
    st.just([["x", 0, 0]]),
    st.sampled_from(["Lambda", "keras.layers.TFSMLayer", "os", "dense"]),
)


@settings(max_examples=300, deadline=None)
@given(
    path=st.sampled_from([path for path in places(KERAS_FILE) if path[:1] == ("keras",)]),
    value=junk,
)
def test_any_change_of_keras_json_gives_a_model_file_or_a_told_problem(path, value):
    try:
        check(encoded(changed(*path, to=value, of=KERAS_FILE)))
    except ModelFileError as error:
        assert error.problems  # noqa: PT017
