"""Kinds of values in a model file: each reads a plain JSON value, or adds what is wrong with it.

A kind returns a normal form, so that `3` and `[3, 3]` for a kernel size are the same afterwards.
After a problem it returns anything: a file with a problem is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from handcar.modelfile.limits import MAX_CONSTANTS, MAX_PROBLEMS, MAX_RANK
from handcar.modelfile.problems import (
    Problems,
    did_you_mean,
    joined,
    one_of,
    short,
    short_key,
    snake_case,
    unknown,
)
from handcar.modelfile.schema import FunctionConfig, Value


class Kind(Protocol):
    """What an argument may be."""

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the normal form of `raw`."""

    def __str__(self) -> str:
        """Say what is allowed."""


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()


@dataclass(frozen=True, slots=True)
class Argument:
    """What an argument may be, and Keras's default in normal form."""

    kind: Kind
    default: Value | _Required = REQUIRED


@dataclass(frozen=True, slots=True)
class Entry:
    """One class of the table: its arguments, where Keras has it, how many inputs a call takes."""

    arguments: Mapping[str, Argument]
    module: str
    inputs: tuple[int, int] = (1, 1)


def need(kind: Kind) -> Argument:
    """Return an argument that must be given."""
    return Argument(kind)


def may(kind: Kind, default: Value = None) -> Argument:
    """Return an argument that may be left out; null is allowed where the default is null."""
    return Argument(Nullable(kind) if default is None else kind, default)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in a range, ends included."""

    low: int
    high: int

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the number."""
        if type(raw) is int and self.low <= raw <= self.high:
            return raw
        return unfit(self, raw, path, problems)

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a range, ends included."""

    low: float = -1e9
    high: float = 1e9

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the number as a float."""
        if type(raw) in (int, float) and isinstance(raw, int | float) and self.fits(raw):
            return float(raw)
        return unfit(self, raw, path, problems)

    def fits(self, number: float) -> bool:
        """Return whether a number lies in the range."""
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few given values; `aliases` are other ways to write them."""

    values: tuple[str | bool, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    null: str | None = None

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the value, by its first name."""
        if raw is None and self.null is not None:
            return self.null
        for value in self.values:
            if type(raw) is type(value) and raw == value:
                return value
        if isinstance(raw, str) and raw in self.aliases:
            return self.aliases[raw]
        return unfit(self, raw, path, problems, names=self.values)

    def __str__(self) -> str:
        return one_of(self.values)


FLAG = OneOf((True, False))


@dataclass(frozen=True, slots=True)
class Wholes:
    """A list of whole numbers; one number alone stands for `least` times itself."""

    least: int
    most: int
    low: int
    high: int

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the numbers as a tuple."""
        if type(raw) is int:
            raw = [raw] * self.least
        if not isinstance(raw, list) or not self.least <= len(raw) <= self.most:
            return unfit(self, raw, path, problems)
        one = Whole(self.low, self.high)
        return tuple(one.read(item, f"{path}[{i}]", problems) for i, item in enumerate(raw))

    def __str__(self) -> str:
        count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"{count} whole numbers from {self.low} to {self.high}, in a list"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A number, or a list of numbers, also as Keras writes an array."""

    most: int = MAX_CONSTANTS
    alone: bool = True

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return a float, or a tuple of floats; lists of one list are opened."""
        raw = without_wrapping(raw)
        if self.alone and not isinstance(raw, list):
            return Number().read(raw, path, problems)
        if not isinstance(raw, list) or not 1 <= len(raw) <= self.most:
            return unfit(self, raw, path, problems)
        return tuple(Number().read(item, f"{path}[{i}]", problems) for i, item in enumerate(raw))

    def __str__(self) -> str:
        alone = "a number or " if self.alone else ""
        return f"{alone}a list of 1 to {self.most} numbers from -1e+09 to 1e+09"


def without_wrapping(raw: object) -> object:
    """Return the value of an array in Keras's form, and `[[1, 2]]` as `[1, 2]`."""
    if isinstance(raw, dict) and raw.get("class_name") in ("__numpy__", "__tensor__"):
        config = raw.get("config")
        raw = config.get("value") if isinstance(config, dict) else config
    while isinstance(raw, list) and len(raw) == 1 and isinstance(raw[0], list):
        raw = raw[0]
    return raw


@dataclass(frozen=True, slots=True)
class Sides:
    """How much to add or cut at both ends of two axes."""

    high: int

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return a pair for each axis; one number stands for all four."""
        pairs = [raw, raw] if type(raw) is int else raw
        if not isinstance(pairs, list) or len(pairs) != 2:
            return unfit(self, raw, path, problems)
        pair = Wholes(2, 2, 0, self.high)
        return tuple(pair.read(item, f"{path}[{i}]", problems) for i, item in enumerate(pairs))

    def __str__(self) -> str:
        return f"a whole number from 0 to {self.high}, or [[top, bottom], [left, right]]"


@dataclass(frozen=True, slots=True)
class Nullable:
    """Null, or another kind."""

    kind: Kind

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return None, or what the other kind reads."""
        return None if raw is None else self.kind.read(raw, path, problems)

    def __str__(self) -> str:
        return f"{self.kind}, or null"


@dataclass(frozen=True, slots=True)
class Null:
    """An argument that Keras writes, and that must be null here."""

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return None."""
        return None if raw is None else unfit(self, raw, path, problems)

    def __str__(self) -> str:
        return "null (Handcar has no use for it)"


@dataclass(frozen=True, slots=True)
class Shared:
    """Along which axes, the batch first, one draw of chance serves all: 1, or else null."""

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return a tuple of 1 and None."""
        if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_RANK + 1:
            return unfit(self, raw, path, problems)
        one = Nullable(Whole(1, 1))
        return tuple(one.read(item, f"{path}[{i}]", problems) for i, item in enumerate(raw))

    def __str__(self) -> str:
        return "a list of 1 and null, one for the batch and one for each axis"


@dataclass(frozen=True, slots=True)
class Dtype:
    """What a layer computes in: a name, or Keras's object that holds only the name."""

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return the name; null is float32."""
        if isinstance(raw, dict) and raw.get("class_name") == "DTypePolicy":
            config = raw.get("config")
            raw = config.get("name") if isinstance(config, dict) else config
        return OneOf(("float32", "mixed_bfloat16"), null="float32").read(raw, path, problems)

    def __str__(self) -> str:
        return "'float32' or 'mixed_bfloat16'"


@dataclass(frozen=True, slots=True)
class Function:
    """A named thing with arguments of its own, from a table: a name alone, or an object."""

    what: str
    table: Mapping[str, Entry]
    aliases: Mapping[str, str] = field(default_factory=dict)
    number: bool = False

    def read(self, raw: object, path: str, problems: Problems) -> Value:
        """Return a FunctionConfig; also a number, where one may stand for the thing."""
        if self.number and type(raw) in (int, float):
            return Number(0, 1e3).read(raw, path, problems)
        if isinstance(raw, str):
            raw = {"name": raw}
        if not isinstance(raw, dict):
            return unfit(self, raw, path, problems)
        name, arguments, arguments_path = named_arguments(raw, path)
        class_name = self.find(name)
        if class_name is None:
            return unfit(self, name, path, problems, names=self.names())
        entry = self.table[class_name]
        check_module(raw, entry.module, path, problems)
        return FunctionConfig(
            class_name, read_arguments(entry, arguments, arguments_path, problems)
        )

    def find(self, name: object) -> str | None:
        """Return the class that `name` means."""
        if not isinstance(name, str):
            return None
        return name if name in self.table else self.names().get(name)

    def names(self) -> Mapping[str, str]:
        """Return every way to write a name of the table."""
        return (
            {snake_case(name): name for name in self.table}
            | {name.lower(): name for name in self.table}
            | dict(self.aliases)
        )

    def __str__(self) -> str:
        number = "a number, or " if self.number else ""
        return f"{number}{self.what}: {one_of(sorted(self.table))}"


def named_arguments(raw: Mapping[str, object], path: str) -> tuple[object, object, str]:
    """Return the name, the arguments and their path, of our form or of Keras's form."""
    if "class_name" not in raw:
        return raw.get("name"), {key: raw[key] for key in raw if key != "name"}, path
    config = raw.get("config", {})
    if isinstance(config, dict):
        config = {key: config[key] for key in config if key != "name"}
    return raw["class_name"], config, f"{path}.config"


KERAS_KEYS = frozenset({"module", "class_name", "config", "registered_name", "build_config"})
KERAS_KEYS |= {"compile_config", "shared_object_id", "name", "inbound_nodes"}


def check_module(raw: Mapping[str, object], module: str, path: str, problems: Problems) -> None:
    """Check what Keras writes around a class; all of it is dropped afterwards."""
    if "class_name" not in raw:
        return
    if raw.get("module") not in (None, module):
        problems.add(f"{path}.module", f"must be {module!r}, got {short(raw['module'])}")
    for key in sorted(raw.keys() - KERAS_KEYS)[:MAX_PROBLEMS]:
        problems.add(f"{path}.{short_key(key)}", "is not a key that Keras writes here")


def read_arguments(entry: Entry, raw: object, path: str, problems: Problems) -> dict[str, Value]:
    """Return the arguments that differ from the defaults, in the order of the table."""
    if not isinstance(raw, dict):
        problems.add(path, f"must be an object, got {short(raw)}")
        return {}
    for key in sorted(raw.keys() - entry.arguments.keys())[:MAX_PROBLEMS]:
        problems.add(joined(path, short_key(key)), unknown(key, entry.arguments, "argument"))
    config = {}
    for name, argument in entry.arguments.items():
        value = read_argument(argument, name, raw, path, problems)
        if not isinstance(value, _Required) and value != argument.default:
            config[name] = value
    return config


def read_argument(
    argument: Argument, name: str, raw: Mapping[str, object], path: str, problems: Problems
) -> Value | _Required:
    """Return one argument's value, or its default."""
    if name in raw:
        return argument.kind.read(raw[name], joined(path, name), problems)
    if argument.default is REQUIRED:
        problems.add(joined(path, name), f"is missing; expected {argument.kind}")
    return argument.default


def unfit(
    kind: Kind, raw: object, path: str, problems: Problems, *, names: Iterable[object] = ()
) -> Value:
    """Note that `raw` is not of this kind, and return what stands for nothing."""
    if not problems.full:
        problems.add(path, f"must be {kind}, got {short(raw)}{did_you_mean(raw, names)}")
    return None
