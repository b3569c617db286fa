"""Updates decoded once: what a check found is kept for the merge, and batches are decoded ahead.

What is kept is what is not 0, a few hundredths of the weights: small ones in this worker's memory,
large ones in files that all workers of this machine find, both within bounds. Nothing depends on
them: what is gone, or was checked on another machine, is decoded again. A merge reads and decodes
in threads, a few updates ahead of the sum: the compiled loops and NumPy's hold no lock.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import numpy as np
from django.conf import settings

from handcar.errors import Corrupt
from handcar.files import MB
from handcar.server import blobs, metrics
from handcar.server.catalog import modelfiles
from handcar.server.rounds.models import Update
from handcar.wire import coded, frames
from handcar.wire.coded import Coded

log = logging.getLogger(__name__)

LARGE = MB
"""What takes so much memory is kept in a file."""
MEMORY = 32 * MB
DISK = 2048 * MB
SPARE = 1024 * MB
"""Room on the disk that is left to what matters more."""
LONGEST_S = 2 * 3600.0
"""What was kept for so long was refused later on, or its merge will decode it again."""
MOST_THREADS = 2
"""Each takes half of what the weights take, beside what it decodes."""

_kept: OrderedDict[UUID, Coded] = OrderedDict()
_keeping = threading.Lock()
"""Threads that decode ahead look things up while another keeps or forgets."""


def decode(update: Update) -> Coded:
    """Return the difference that an update holds, if it is what was announced. Raises Corrupt."""
    layout = modelfiles.layout(update.model.model_file)
    with metrics.timed("decode"):
        facts, change = frames.decode_coded(blobs.read(update.sha256), layout)
    expected = ("update", update.model_id, update.base_version)
    if (facts.kind, facts.model, facts.version) != expected:
        raise Corrupt(
            f"announced was an {expected[0]} of {expected[1]} from version {expected[2]}, "
            f"its bytes are an {facts.kind} of {facts.model} from version {facts.version}"
        )
    return change


def keep(update: Update, change: Coded) -> None:
    """Keep what was decoded until it is merged, as far as there is room."""
    if change.nbytes >= LARGE:
        with suppress(OSError):
            _write(_path(update.pk), change)
        return
    with _keeping:
        _kept[update.pk] = change
        while sum(one.nbytes for one in _kept.values()) > MEMORY:
            _kept.popitem(last=False)


def kept_or_decoded(update: Update) -> Coded:
    """Return what was kept of an update, or decode it. Raises Corrupt."""
    found = _read(update)
    return decode(update) if found is None else found


def forget(ids: Iterable[UUID]) -> None:
    """Let go of updates that were merged."""
    for id in ids:
        with _keeping:
            _kept.pop(id, None)
        _path(id).unlink(missing_ok=True)


def _path(id: UUID) -> Path:
    folder: Path = settings.HANDCAR_HOME.folder / "decoded"
    return folder / f"{id}.npz"


def _write(path: Path, change: Coded) -> None:
    """Write the file at once or not at all; a power cut may spoil it, which its checksums tell."""
    path.parent.mkdir(exist_ok=True)
    if _filled(path.parent) + change.nbytes > DISK:
        return  # what is there is merged before this one
    if shutil.disk_usage(path.parent).free - change.nbytes < SPARE:
        return  # others need what is left more
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, **coded.arrays(change))  # type: ignore[arg-type] # names of arrays
    part.replace(path)


def _filled(folder: Path) -> int:
    """Return how many bytes are kept; what has waited for too long for its merge goes."""
    total, now = 0, time.time()
    for one in os.scandir(folder):
        with suppress(OSError):  # another worker may have merged it meanwhile
            found = one.stat()
            if abs(now - found.st_mtime) > LONGEST_S:
                Path(one.path).unlink(missing_ok=True)
            else:
                total += found.st_size
    return total


def _read(update: Update) -> Coded | None:
    """Return what was kept of an update, if it is there and sound."""
    if update.pk in _kept:
        return _kept[update.pk]
    try:
        with np.load(_path(update.pk)) as arrays:
            return coded.of_arrays(dict(arrays), modelfiles.layout(update.model.model_file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.info("%s is decoded again: %s", update, error)
        return None


@contextmanager
def ahead(updates: Sequence[Update]) -> Iterator[list[Callable[[], Coded]]]:
    """Give a function for each update that returns what it holds; to be called in this order."""
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    waiting = deque(updates)
    begun: deque[Future[Coded]] = deque()
    with ThreadPoolExecutor(threads) as pool:

        def take() -> Coded:
            while waiting and len(begun) <= threads:
                begun.append(pool.submit(kept_or_decoded, waiting.popleft()))
            return begun.popleft().result()

        try:
            yield [take] * len(updates)
        finally:
            pool.shutdown(cancel_futures=True)
