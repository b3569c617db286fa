"""What hypothesis draws from: layouts, weights and differences of small models."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from handcar.wire.layout import Flat, Layout, TensorSpec

finite = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """A layout of one to five tensors, the first of them trainable."""
    kinds = ["trainable", *draw(st.lists(st.sampled_from(["trainable", "statistic"]), max_size=4))]
    shape = st.lists(st.integers(1, 6), min_size=0, max_size=3).map(tuple)
    return Layout(
        tuple(TensorSpec(f"tensor{i}", draw(shape), kind) for i, kind in enumerate(kinds))
    )


def vectors(size: int) -> st.SearchStrategy[Flat]:
    """Finite float32 vectors of one size."""
    return hnp.arrays(np.float32, size, elements=finite)


@st.composite
def layouts_with(draw: st.DrawFn, count: int) -> tuple[Layout, list[Flat]]:
    """A layout and that many vectors in it."""
    layout = draw(layouts())
    return layout, [draw(vectors(layout.size)) for _ in range(count)]
