"""The newest version on this machine: kept on disk, followed frame by frame, checked by digest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from handcar import files
from handcar.errors import FrameError
from handcar.protocol.messages import Frame, Series
from handcar.wire import frames
from handcar.wire.layout import Flat, Layout, weights_digest

log = logging.getLogger(__name__)

Fetch = Callable[[Frame], bytes]


class Keeper:
    """Keeps the newest version of one model. Arrays that it gives out are not to be changed."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout
        self._lock = threading.Lock()
        self._held: tuple[int, Flat] | None = self._load()

    @property
    def version(self) -> int | None:
        """The version held, or none."""
        return self._held[0] if self._held else None

    def newest(self) -> tuple[int, Flat]:
        """Return the version held and its weights."""
        with self._lock:
            if self._held is None:
                raise FrameError("no version has been fetched yet")
            return self._held

    def follow(self, series: Series, target: int, fetch: Fetch) -> Flat:
        """Return the weights of `target`, fetching the fewest bytes. Raises FrameError."""
        path = cheapest(series, target, held=self.version)
        if path[0].kind == "keyframe":
            return self._walk(path, series, fetch)
        try:
            return self._walk(path, series, fetch)
        except FrameError as error:
            # A server that was restored from a backup made these versions anew, and otherwise.
            log.warning("version %s is not what the server's is: %s", self.version, error)
            with suppress(FrameError):
                return self._walk(cheapest(series, target, held=None), series, fetch)
            raise

    def _walk(self, path: list[Frame], series: Series, fetch: Fetch) -> Flat:
        weights = np.empty(0, np.float32) if path[0].kind == "keyframe" else self.newest()[1]
        for frame in path:
            weights = self._step(weights, frame, fetch(frame), series.model_id)
        return weights

    def several(self, series: Series, targets: Iterable[int], fetch: Fetch) -> dict[int, Flat]:
        """Return the weights of some versions, fetching the fewest bytes. Raises FrameError."""
        here = dict([self.newest()]) if self.version is not None else {}
        for target in sorted(set(targets) - here.keys()):
            base = max((version for version in here if version < target), default=None)
            weights = np.empty(0, np.float32) if base is None else here[base]
            for frame in cheapest(series, target, held=base):
                weights = self._step(weights, frame, fetch(frame), series.model_id)
            here[target] = weights
        return {target: here[target] for target in targets}

    def keep(self, version: int, weights: Flat) -> None:
        """Make this the version held, on disk first."""
        name = f"{version}-{weights_digest(weights).removeprefix('sha256:')}"
        files.write(self._folder / name, weights.astype("<f4", copy=False).tobytes())
        with self._lock:
            self._held = (version, weights)
        for old in self._folder.iterdir():
            if old.name != name:
                old.unlink(missing_ok=True)

    def _step(self, weights: Flat, frame: Frame, data: bytes, model_id: str) -> Flat:
        if frame.kind == "keyframe":
            facts, numbers = frames.decode_keyframe(data, self._layout)
        else:
            facts, numbers = frames.lead(data, weights, self._layout)
        if facts.model != model_id or facts.version != frame.version:
            raise FrameError(
                f"expected version {frame.version} of {model_id}, "
                f"got version {facts.version} of {facts.model}"
            )
        digest = weights_digest(numbers)
        if digest != frame.weights_sha256:
            raise FrameError(
                f"version {frame.version}: expected weights {frame.weights_sha256}, got {digest}"
            )
        return numbers

    def _load(self) -> tuple[int, Flat] | None:
        if not self._folder.is_dir():
            return None
        found = [self._read(path) for path in self._folder.iterdir() if path.name[0].isdigit()]
        return max((held for held in found if held), key=lambda held: held[0], default=None)

    def _read(self, path: Path) -> tuple[int, Flat] | None:
        number, _, digest = path.name.partition("-")
        data = path.read_bytes()
        if len(data) != self._layout.size * 4 or files.digest(data) != f"sha256:{digest}":
            log.warning("%s is damaged and will be fetched again", path)
            path.unlink(missing_ok=True)
            return None
        return int(number), np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def cheapest(series: Series, target: int, *, held: int | None) -> list[Frame]:
    """Return the frames that lead to `target` in the fewest bytes. Raises FrameError.

    One way goes by the deltas after the version held, the other by the keyframe.
    """
    deltas = {frame.version: frame for frame in series.deltas}
    ways = []
    if held is not None and held < target:
        ways.append([deltas.get(number) for number in range(held + 1, target + 1)])
    if series.keyframe.version <= target:
        after = range(series.keyframe.version + 1, target + 1)
        ways.append([series.keyframe, *(deltas.get(number) for number in after)])
    open_ways = [[frame for frame in way if frame] for way in ways if all(way)]
    if not open_ways:
        raise FrameError(f"the series no longer leads to version {target} from {held}")
    return min(open_ways, key=lambda way: sum(frame.size for frame in way))
