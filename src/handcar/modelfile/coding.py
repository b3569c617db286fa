"""How coarsely the updates of a model are coded, by its layers."""

from __future__ import annotations

from handcar.modelfile.schema import ModelFile

STEP, FINE_STEP = 3.0, 2.0
"""k of the step codec for updates (docs/decisions/0005-error-feedback.md)."""
FINE = frozenset(("Embedding", "MultiHeadAttention", "SimpleRNN", "LSTM", "GRU", "Bidirectional"))
"""Layers of models that learn from sequences: the coarser step costs a transformer loss."""


def update_step(model_file: ModelFile) -> float:
    """Return the step that the updates of a model are coded with."""
    layers = {layer.class_name for layer in model_file.network.layers}
    return FINE_STEP if layers & FINE else STEP
