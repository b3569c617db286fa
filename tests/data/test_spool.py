"""Arrays that grow on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from handcar.data.spool import Spool, expect_room, mapped
from handcar.errors import DiskFull

ARRAYS = hnp.arrays(
    st.sampled_from(["u1", "<i2", "<f4", "<f8", "?"]),
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5),
    elements={"allow_nan": False},
)


@given(ARRAYS, st.integers(1, 5))
def test_rows_come_back_as_they_were_written_in_whatever_pieces(array, rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npy"
        with Spool(path, array.shape[1:], array.dtype) as spool:
            for first in range(0, len(array), rows):
                spool.append(array[first : first + rows])
            np.testing.assert_array_equal(spool.mapped(), array)
        np.testing.assert_array_equal(np.load(path), array)
        assert mapped(path).dtype == array.dtype


def test_a_file_keeps_growing_under_another_name(tmp_path):
    with Spool(tmp_path / "part.npy", (2,), "u1") as spool:
        spool.append(np.array([[1, 2]]))
        spool.rename(tmp_path / "a.npy")
        spool.append(np.array([[3, 4]]))
        assert spool.mapped().tolist() == [[1, 2], [3, 4]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_more_than_the_disk_has_is_refused(tmp_path):
    expect_room(tmp_path, 10)
    with pytest.raises(DiskFull, match="are free: free some space, or set HANDCAR_HOME"):
        expect_room(tmp_path, 10**18)
