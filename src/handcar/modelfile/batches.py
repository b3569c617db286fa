"""Batches in the form that Keras takes fastest on its backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

Batches = tuple[NDArray[Any], NDArray[Any]]
"""x and y of many batches, each of shape (count, batch, ...)."""


def for_keras(pieces: Iterator[Batches]) -> Any:
    """Return batches, given piece by piece, in the form that Keras takes fastest on its backend."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return _tensorflow(pieces)
    return (batch for piece in pieces for batch in zip(*piece, strict=True))


def _tensorflow(pieces: Iterator[Batches]) -> Any:
    # Many batches a call, cut up in tf.data: calling Python for each one halves the speed of
    # a small network. They come cut into batches, so that tf.data never looks at records.
    import tensorflow as tf

    first = next(pieces)

    def all_pieces() -> Iterator[Batches]:
        yield first
        yield from pieces

    signature = tuple(
        tf.TensorSpec((None, *column.shape[1:]), tf.as_dtype(column.dtype)) for column in first
    )
    whole = tf.data.Dataset.from_generator(all_pieces, output_signature=signature)
    options = tf.data.Options()
    # Its thread wakes at 10 ms, 20 ms, 40 ms ... and the end of a round would wait for it:
    # seconds, for rounds of a few seconds.
    options.autotune.enabled = False
    cut = whole.flat_map(lambda *columns: tf.data.Dataset.from_tensor_slices(columns))
    return cut.prefetch(2).with_options(options)
