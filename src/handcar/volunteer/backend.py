"""Which of Keras's backends this machine trains with."""

from __future__ import annotations

import importlib.util
import os

from handcar.errors import BadInput

BACKENDS = ("tensorflow", "jax", "torch")


def choose() -> str:
    """Set KERAS_BACKEND to the first that is installed, unless it is set; return it.

    Raises BadInput when there is none. Looks without importing, which costs nothing.
    """
    wanted = os.environ.get("KERAS_BACKEND")
    for name in (wanted,) if wanted else BACKENDS:
        if name in BACKENDS and importlib.util.find_spec(name):
            os.environ["KERAS_BACKEND"] = name
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            return name
    if wanted:
        raise BadInput(
            f"KERAS_BACKEND is {wanted!r}, which is not installed: expected one of "
            f"{', '.join(BACKENDS)}. Install it with: pip install 'handcar[{wanted}]'"
        )
    raise BadInput(
        "training needs one of TensorFlow, JAX or PyTorch, and none is installed. "
        "The smallest download is JAX: pip install 'handcar[jax]'"
    )
