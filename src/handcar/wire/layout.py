"""The fixed order of a model's weights, and one flat float32 vector that holds them all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Flat = NDArray[np.float32]
Kind = Literal["trainable", "statistic"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: `trainable` ones are merged as differences, `statistic` ones as values."""

    name: str
    shape: tuple[int, ...]
    kind: Kind = "trainable"

    @property
    def size(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in their fixed order."""

    tensors: tuple[TensorSpec, ...]

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each tensor lies in the flat vector."""
        slices, start = [], 0
        for tensor in self.tensors:
            slices.append(slice(start, start + tensor.size))
            start += tensor.size
        return tuple(slices)

    @cached_property
    def size(self) -> int:
        """How many numbers the model holds in all."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def statistic_slices(self) -> tuple[slice, ...]:
        """Where the statistics lie, in order."""
        pairs = zip(self.tensors, self.slices, strict=True)
        return tuple(place for tensor, place in pairs if tensor.kind == "statistic")

    def flatten(self, arrays: Sequence[NDArray[np.generic]]) -> Flat:
        """Return one new float32 vector of `arrays`, given in the layout's order."""
        flat = np.empty(self.size, dtype=np.float32)
        for place, array, tensor in zip(self.slices, arrays, self.tensors, strict=True):
            if array.shape != tensor.shape:
                raise ValueError(f"{tensor.name}: expected {tensor.shape}, got {array.shape}")
            flat[place] = array.reshape(-1)
        return flat

    def views(self, flat: Flat) -> list[Flat]:
        """Return each tensor as a view into `flat`, shaped."""
        return [
            flat[place].reshape(tensor.shape)
            for place, tensor in zip(self.slices, self.tensors, strict=True)
        ]


def weights_digest(flat: Flat) -> str:
    """Return the digest that names a version: SHA-256 over its float32 values, little-endian."""
    return "sha256:" + hashlib.sha256(np.ascontiguousarray(flat, dtype="<f4").data).hexdigest()
