"""A model file's bytes -> ModelFile, or every problem that it has, each with its path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from handcar.merging.rules import RULES
from handcar.modelfile.functions import LOSS, METRIC, OPTIMIZER
from handcar.modelfile.handwritten import read_handwritten
from handcar.modelfile.kerasjson import read_keras
from handcar.modelfile.kinds import (
    Argument,
    Entry,
    Number,
    OneOf,
    Whole,
    Wholes,
    may,
    need,
    read_arguments,
)
from handcar.modelfile.limits import MAX_BATCH_ACTIVATIONS
from handcar.modelfile.network import RawNetwork, read_network
from handcar.modelfile.parse import parse
from handcar.modelfile.problems import (
    Problems,
    short,
    short_key,
    unknown,
)
from handcar.modelfile.schema import (
    DatasetSpec,
    FunctionConfig,
    LayerSpec,
    ModelFile,
    Network,
    RoundSpec,
    Tensor,
    Value,
)
from handcar.modelfile.shapes import infer
from handcar.modelfile.texts import FileName, Name, Text

TOP: Mapping[str, Argument] = {
    "name": need(Name()),
    "description": may(Text(2000), ""),
    "loss": need(LOSS),
    "optimizer": may(OPTIMIZER, FunctionConfig("Adam")),
    "batch_size": may(Whole(1, 65_536), 32),
    "epochs": may(Number(0.001, 1e6)),
    "merging": may(OneOf(tuple(RULES)), "share"),
}
DATASET = Entry(
    {
        "name": need(Name()),
        "description": may(Text(2000), ""),
        "licence": may(Text(200), ""),
        "file": may(FileName()),
        "validation": may(Number(0, 0.9), 0.1),
        "test": may(FileName()),
        "label": may(Text(200)),
        "size": may(Wholes(2, 2, 1, 65_536)),
        "window": may(Whole(1, 1_000_000)),
        "tokenizer": may(FileName()),
        "seconds": may(Number(0.001, 3600)),
    },
    module="",
)
ROUND = Entry(
    {
        "max_steps": may(Whole(1, 1_000_000), 1000),
        "max_seconds": may(Whole(1, 86_400), 1800),
    },
    module="",
)
ELSEWHERE = ("dataset", "round", "metrics", "input", "layers", "output", "keras")
MAX_METRICS = 10


def check(raw: bytes) -> ModelFile:
    """Return what a model file says, or raise ModelFileError with every problem found.

    A file that passes can be built: its shapes fit each other, and its sizes are allowed.
    """
    problems = Problems()
    document = parse(raw)
    if not isinstance(document, dict):
        problems.add("", f"a model file must be a JSON object, got {short(document)}")
        document = {}
    problems.refuse_if_any()
    raw_network = read_layers(document, problems)
    model_file = read_document(document, read_network(raw_network, problems), problems)
    check_optimizer(model_file.optimizer, problems)
    problems.refuse_if_any()
    paths = {str(layer.name): layer.path for layer in raw_network.layers}
    check_batch(model_file, infer(model_file, paths=paths).activations_per_record)
    return model_file


def read_document(
    document: Mapping[str, object], network: Network, problems: Problems
) -> ModelFile:
    """Return the whole file; what is wrong with it is in `problems`."""
    for key in sorted(document.keys() - TOP.keys() - set(ELSEWHERE)):
        problems.add(short_key(key), unknown(key, [*TOP, *ELSEWHERE], "field"))
    top = {key: document[key] for key in document.keys() & TOP.keys()}
    known = read_fields(Entry(TOP, module=""), top, "", problems)
    dataset = read_fields(DATASET, document.get("dataset", {}), "dataset", problems)
    rounds = read_fields(ROUND, document.get("round", {}), "round", problems)
    return ModelFile(
        dataset=DatasetSpec(**dataset),  # type: ignore[arg-type]
        network=network,
        metrics=read_metrics(document.get("metrics", []), problems),
        round=RoundSpec(**rounds),  # type: ignore[arg-type]
        **known,  # type: ignore[arg-type]
    )


def read_fields(entry: Entry, raw: object, path: str, problems: Problems) -> dict[str, Value]:
    """Return all fields of an object, defaults included."""
    given = read_arguments(entry, raw, path, problems)
    defaults = {name: argument.default for name, argument in entry.arguments.items()}
    return cast("dict[str, Value]", defaults | given)


def read_layers(document: Mapping[str, object], problems: Problems) -> RawNetwork:
    """Return the network as written, in the form that people write or in Keras's."""
    if "keras" not in document:
        return read_handwritten(document, problems)
    for key in sorted(document.keys() & {"input", "layers", "output"}):
        problems.add(key, "must be left out, because `keras` holds the network")
    return read_keras(document["keras"], "keras", problems)


def read_metrics(raw: object, problems: Problems) -> tuple[FunctionConfig, ...]:
    """Return the metrics, none of them twice."""
    if not isinstance(raw, list) or len(raw) > MAX_METRICS:
        problems.add("metrics", f"must be a list of at most {MAX_METRICS}, got {short(raw)}")
        return ()
    metrics = [METRIC.read(item, f"metrics[{i}]", problems) for i, item in enumerate(raw)]
    found = [metric for metric in metrics if isinstance(metric, FunctionConfig)]
    names = [metric.name for metric in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.add("metrics", f"{name} is given twice; expected each metric once")
    return tuple(found)


def check_optimizer(optimizer: FunctionConfig, problems: Problems) -> None:
    """Check what must fit together inside an optimizer."""
    if not isinstance(optimizer, FunctionConfig):
        return
    clips = sorted(optimizer.config.keys() & {"clipnorm", "clipvalue", "global_clipnorm"})
    if len(clips) > 1:
        problems.add("optimizer", f"must clip in one way at most, got {' and '.join(clips)}")
    rate = optimizer.config.get("learning_rate")
    if isinstance(rate, FunctionConfig) and rate.name == "PiecewiseConstantDecay":
        check_pieces(rate, problems)


def check_pieces(rate: FunctionConfig, problems: Problems) -> None:
    """Check that a schedule in pieces has one value more than rising boundaries."""
    boundaries, values = rate.config.get("boundaries"), rate.config.get("values")
    if not isinstance(boundaries, tuple) or not isinstance(values, tuple):
        return
    if list(boundaries) != sorted(set(cast("tuple[int, ...]", boundaries))):
        problems.add("optimizer.learning_rate.boundaries", "must rise from one to the next")
    if len(values) != len(boundaries) + 1:
        wanted = f"must be {len(boundaries) + 1}, one more than boundaries"
        problems.add("optimizer.learning_rate.values", f"{wanted}, got {len(values)}")


def check_batch(model_file: ModelFile, activations_per_record: int) -> None:
    """Refuse a batch that no volunteer's memory would hold."""
    problems = Problems()
    numbers = model_file.batch_size * activations_per_record
    if numbers > MAX_BATCH_ACTIVATIONS:
        limit = f"at most {MAX_BATCH_ACTIVATIONS:,} numbers in a batch"
        problems.add("batch_size", f"must make {limit}, got {numbers:,}; take a smaller batch")
    problems.refuse_if_any()


def canonical(model_file: ModelFile) -> bytes:
    """Return the one way to write this model file: `check(canonical(m)) == m`.

    Always the hand-written form, in a fixed order, without what is a default anyway.
    """
    text = json.dumps(document_of(model_file), ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def document_of(model_file: ModelFile) -> dict[str, object]:
    """Return the JSON object of a model file."""
    dataset, rounds = model_file.dataset, model_file.round
    return without_none(
        {
            "name": model_file.name,
            "description": model_file.description or None,
            "dataset": without_none(
                {
                    "name": dataset.name,
                    "description": dataset.description or None,
                    "licence": dataset.licence or None,
                    "file": dataset.file,
                    "validation": dataset.validation,
                    "test": dataset.test,
                    "label": dataset.label,
                    "size": plain(dataset.size),
                    "window": dataset.window,
                    "tokenizer": dataset.tokenizer,
                    "seconds": dataset.seconds,
                }
            ),
            **network_of(model_file.network),
            "loss": plain(model_file.loss),
            "optimizer": plain(model_file.optimizer),
            "metrics": [plain(metric) for metric in model_file.metrics],
            "batch_size": model_file.batch_size,
            "epochs": model_file.epochs,
            "round": {"max_steps": rounds.max_steps, "max_seconds": rounds.max_seconds},
            "merging": None if model_file.merging == "share" else model_file.merging,
        }
    )


def without_none(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that say something."""
    return {key: value for key, value in fields.items() if value is not None}


def network_of(network: Network) -> dict[str, object]:
    """Return `input`, `layers` and, where it isn't the last call of the last layer, `output`."""
    start = network.input
    shape = {"shape": list(start.shape), "dtype": start.dtype, "name": start.name}
    before, layers = Tensor(start.name), []
    for layer in network.layers:
        layers.append(layer_of(layer, before))
        before = Tensor(layer.name, len(layer.calls) - 1)
    output = {} if before == network.output else {"output": str(network.output)}
    return {"input": shape, "layers": layers, **output}


def layer_of(layer: LayerSpec, before: Tensor) -> dict[str, object]:
    """Return one layer's JSON; a layer inside a wrapper has no name and no inputs."""
    written: dict[str, object] = {"layer": layer.class_name}
    if layer.name:
        written["name"] = layer.name
    written |= {name: plain(value) for name, value in layer.config.items()}
    calls = [[str(tensor) for tensor in call] for call in layer.calls]
    if calls and calls != [[str(before)]]:
        written["inputs"] = calls[0] if len(calls) == 1 else calls
    return written


def plain(value: Value) -> object:
    """Return a checked value as JSON."""
    if isinstance(value, FunctionConfig):
        config = {name: plain(item) for name, item in value.config.items()}
        return {"name": value.name, **config} if config else value.name
    if isinstance(value, LayerSpec):
        return layer_of(value, Tensor(""))
    return [plain(item) for item in value] if isinstance(value, tuple) else value
