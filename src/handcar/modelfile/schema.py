"""What a model file may say, as plain values that are checked already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Value: TypeAlias = (
    "None | bool | int | float | str | tuple[Value, ...] | FunctionConfig | LayerSpec"
)
Config: TypeAlias = Mapping[str, Value]
Shape: TypeAlias = tuple[int, ...]
InputDtype: TypeAlias = Literal["float32", "int32", "uint8"]


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """A loss, metric, optimizer, schedule, initializer, regularizer or constraint.

    `config` holds only what differs from Keras's default.
    """

    name: str
    config: Config = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tensor:
    """What one call of one layer gives: `call` is 0 unless the layer is shared."""

    layer: str
    call: int = 0

    def __str__(self) -> str:
        return f"{self.layer}:{self.call}" if self.call else self.layer


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer, its arguments that differ from Keras's defaults, and what each call reads.

    `calls` is empty, and `name` too, for a layer inside a wrapper.
    """

    class_name: str
    name: str = ""
    config: Config = field(default_factory=dict)
    calls: tuple[tuple[Tensor, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One record as it goes in: its shape, without the batch."""

    shape: Shape
    dtype: InputDtype = "float32"
    name: str = "input"


@dataclass(frozen=True, slots=True)
class Network:
    """The layers in the order of the file; one input, one output."""

    input: InputSpec
    layers: tuple[LayerSpec, ...]
    output: Tensor

    @property
    def is_chain(self) -> bool:
        """Whether each layer reads the one before, and nothing else."""
        before = [self.input.name, *(layer.name for layer in self.layers)]
        chained = all(
            layer.calls == ((Tensor(name),),)
            for name, layer in zip(before, self.layers, strict=False)
        )
        return chained and self.output == Tensor(before[-1])


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """The data set: its name, what people should know of it, and where the owner has it.

    From `test` on: how `handcar publish` reads the owner's data, if not in the plainest way.
    """

    name: str
    description: str = ""
    licence: str = ""
    file: str | None = None
    validation: float = 0.1
    test: str | None = None
    label: str | None = None
    size: Shape | None = None
    window: int | None = None
    tokenizer: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RoundSpec:
    """When a volunteer's round ends: after so many steps or seconds, whichever is first."""

    max_steps: int = 1000
    max_seconds: int = 1800


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Everything a model file says; `epochs` None means until the owner stops."""

    name: str
    dataset: DatasetSpec
    network: Network
    loss: FunctionConfig
    optimizer: FunctionConfig
    description: str = ""
    metrics: tuple[FunctionConfig, ...] = ()
    batch_size: int = 32
    epochs: float | None = None
    round: RoundSpec = field(default_factory=RoundSpec)
    merging: str = "share"
