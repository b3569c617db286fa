"""The format stays what the reference says: stored frames decode to what they always did."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handcar.wire import container, frames
from handcar.wire.layout import Layout, TensorSpec

HERE = Path(__file__).parent
VECTORS: list[dict[str, Any]] = json.loads((HERE / "vectors.json").read_text())


def layout_of(vector: dict[str, Any]) -> Layout:
    return Layout(
        tuple(
            TensorSpec(
                str(n), tuple(one["shape"]), "statistic" if one["statistic"] else "trainable"
            )
            for n, one in enumerate(vector["tensors"])
        )
    )


def decoded(vector: dict[str, Any]) -> np.ndarray:
    layout, data = layout_of(vector), base64.b64decode(vector["frame"])
    kind = container.unpack(data)[0]["kind"]
    if kind == "keyframe":
        return frames.decode_keyframe(data, layout)[1]
    if kind == "update":
        return frames.decode_difference(data, layout)[1]
    base = np.frombuffer(base64.b64decode(vector["base"]), "<f4").astype(np.float32)
    return frames.lead(data, base, layout)[1]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_stored_frame_decodes_to_what_it_always_did(vector):
    raw = decoded(vector).astype("<f4").tobytes()
    assert hashlib.sha256(raw).hexdigest() == vector["sha256"]


def test_the_vectors_cover_every_codec_and_stage():
    headers = [container.unpack(base64.b64decode(one["frame"]))[0] for one in VECTORS]
    assert {one["codec"] for one in headers} == {"planes", "bf16", "step"}
    assert {one.get("entropy") for one in headers} == {None, "packed", "context"}
    assert {one["rounded"] for one in headers} == {True, False}


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js, for the second reader")
def test_a_reader_written_from_the_reference_alone_reads_the_same():
    done = subprocess.run(
        ["node", str(HERE / "reader.mjs")],
        input=json.dumps(VECTORS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [one["sha256"] for one in VECTORS]
