"""Taking a trained model away: fetched and checked like any version, saved by Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from handcar import files
from handcar.errors import BadInput, Corrupt, Unreachable
from handcar.modelfile.check import check
from handcar.modelfile.schema import ModelFile
from handcar.modelfile.shapes import infer
from handcar.protocol.messages import Export, Link
from handcar.stores.answers import raise_for_answer
from handcar.wire import frames
from handcar.wire.layout import Flat


@dataclass(frozen=True)
class Trained:
    """A model file and the weights of one version of it."""

    model_file: ModelFile
    version: int
    weights: Flat


def fetch(get: Callable[[str], Any], model_id: str) -> Trained:
    """Fetch the newest version of a model; `get` asks the server's API for a path."""
    export = Export.model_validate(get(f"/models/{model_id}/export"))
    model_file = check(_bytes(export.configuration))
    layout = infer(model_file).layout
    _, weights = frames.decode_keyframe(_bytes(export.weights), layout)
    return Trained(model_file, export.version, weights)


def save(trained: Trained, path: Path) -> None:
    """Write a `.keras` file, whole."""
    from handcar.modelfile import build

    if path.suffix != ".keras":
        raise BadInput(f"{path}: the name must end in .keras, which is what is written")
    model = build.build(trained.model_file)
    build.set_weights(model, infer(trained.model_file).layout, trained.weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    with files.said_plainly(path):
        model.save(part)
        part.replace(path)


def _bytes(link: Link) -> bytes:
    try:
        answer = httpx2.get(link.url, follow_redirects=True, timeout=60.0)
    except httpx2.TransportError as error:
        raise Unreachable(f"no answer from {link.url}: {error}") from error
    raise_for_answer(answer)
    if files.digest(answer.content) != link.sha256:
        raise Corrupt(f"{link.url}: expected {link.sha256}, got {files.digest(answer.content)}")
    return answer.content
