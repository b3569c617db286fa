"""A layer inside a wrapper such as `TimeDistributed`: checked in full like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from handcar.modelfile.kinds import (
    Entry,
    check_module,
    read_arguments,
    unfit,
)
from handcar.modelfile.problems import (
    Problems,
    did_you_mean,
    one_of,
    short,
)
from handcar.modelfile.schema import LayerSpec, Value


@dataclass(frozen=True, slots=True)
class Child:
    """A layer of one of the classes `names`."""

    table: Mapping[str, Entry]
    names: tuple[str, ...]

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return a LayerSpec without a name and without calls."""
        if not isinstance(raw, dict):
            return unfit(self, raw, path, problems)
        class_name, arguments, arguments_path = layer_arguments(raw, path)
        if not isinstance(class_name, str) or class_name not in self.names:
            hint = did_you_mean(class_name, self.names)
            problems.add(f"{path}.layer", f"must be {self}, got {short(class_name)}{hint}")
            return None
        entry = self.table[class_name]
        check_module(raw, entry.module, path, problems)
        config = read_arguments(entry, arguments, arguments_path, problems)
        return LayerSpec(class_name, config=config)

    def __str__(self) -> str:
        return f"a layer: {one_of(self.names)}"


def layer_arguments(raw: Mapping[str, object], path: str) -> tuple[object, object, str]:
    """Return the class, the arguments and their path, of our form or of Keras's form."""
    if "class_name" not in raw:
        rest = {key: raw[key] for key in raw if key not in ("layer", "name")}
        return raw.get("layer"), rest, path
    config = raw.get("config", {})
    if isinstance(config, dict):
        config = {key: config[key] for key in config if key != "name"}
    return raw["class_name"], config, f"{path}.config"
