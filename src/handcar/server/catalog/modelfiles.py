"""What the server needs of a model file; Keras is not among it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from handcar.merging.rules import RULES, Rule
from handcar.modelfile import coding
from handcar.modelfile.check import canonical, check
from handcar.modelfile.schema import ModelFile
from handcar.modelfile.shapes import infer
from handcar.protocol import limits
from handcar.wire.layout import Layout


@dataclass(frozen=True, slots=True)
class Facts:
    """A model file that was checked, in the words of the catalogue."""

    name: str
    description: str
    dataset: str
    canonical: bytes
    weights: int
    batch_size: int
    epochs: float | None
    round_steps: int
    round_seconds: float


def read(raw: bytes) -> Facts:
    """Check a model file. Raises ModelFileError with everything wrong."""
    model_file = check(raw)
    return Facts(
        name=model_file.name,
        description=model_file.description,
        dataset=model_file.dataset.name,
        canonical=canonical(model_file),
        weights=infer(model_file).layout.size,
        batch_size=model_file.batch_size,
        epochs=model_file.epochs,
        round_steps=min(model_file.round.max_steps, limits.ROUND_STEPS),
        round_seconds=min(float(model_file.round.max_seconds), limits.ROUND_S),
    )


@lru_cache(maxsize=64)
def parsed(text: str) -> ModelFile:
    """Return a model file that the catalogue holds."""
    return check(text.encode())


@lru_cache(maxsize=64)
def layout(text: str) -> Layout:
    """Return the order of the weights of a model file that the catalogue holds."""
    return infer(parsed(text)).layout


def update_step(text: str) -> float:
    """Return the step that the updates of a model in the catalogue are coded with."""
    return coding.update_step(parsed(text))


def rule(text: str) -> Rule:
    """Return the rule that a model's updates are merged by."""
    return RULES[parsed(text).merging]
