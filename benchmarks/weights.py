"""How few bytes weights take, and how quickly: Handcar's frames beside other formats.

Three models are trained in the loop (`learning.py`), since what coding dropped and what came
of it shape the next round's numbers: sizes are means over the rounds, and `x` says how many
times smaller than `np.savez_compressed` of the same model's float32 weights. The bars are the
worst model's. A larger dense network gives the seconds, of processor time on one core, best
of three; other formats hold its weights, but for hivemind's, which hold its differences as ours
do. Formats that are not installed are named as such.
"""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from common import Bar, arguments, report
from handcar.merging import activity
from handcar.merging.merge import Contribution, merge
from handcar.wire import frames
from handcar.wire.coded import Coded
from handcar.wire.layout import Flat, Layout
from learning import FRUGAL, KEY, TASKS, UPDATE, Coding, Learner, Round, key, rounds, usual

LENGTHS = {"mlp": (8, 50), "cnn": (8, 40), "transformer": (6, 25)}
"""Rounds, and steps a volunteer makes in each."""
QUICK_LENGTH = (3, 20)
LARGE, QUICK_LARGE = 5600, 2400
"""Widths of the large dense network: 20 million weights, and 5."""
TEXT_PART = 20
"""One of so many weights is written as text; the rest is reckoned."""

Arrays = Sequence[np.ndarray]


# -- formats -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """A way to write arrays, from another library."""

    name: str
    needs: str
    encode: Callable[[Any, Arrays], bytes]
    decode: Callable[[Any, bytes], object]


def _written(save: Callable[..., None], *what: Any) -> bytes:
    buffer = BytesIO()
    save(buffer, *what)
    return buffer.getvalue()


def _flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in arrays])


def _read_all(data: bytes) -> list[np.ndarray]:
    with np.load(BytesIO(data)) as found:
        return [found[name] for name in found.files]


def _read_each(data: bytes) -> list[np.ndarray]:
    buffer, arrays = BytesIO(data), []
    while buffer.tell() < len(data):
        arrays.append(np.load(buffer))
    return arrays


def _safetensors(library: Any, arrays: Arrays) -> bytes:
    return library.save({str(n): array for n, array in enumerate(arrays)})


def _blosc2(library: Any, arrays: Arrays) -> bytes:
    library.set_nthreads(1)
    return library.compress2(
        _flat(arrays),
        codec=library.Codec.ZSTD,
        clevel=5,
        filters=[library.Filter.BITSHUFFLE],
        typesize=4,
    )


def _eight_bits(_: Any, arrays: Arrays) -> bytes:
    """Write one of 256 even steps within six deviations for each number, as hivemind does."""
    flat = _flat(arrays)
    step = 12 * float(flat.std()) / 256 or 1.0
    places = np.clip(np.rint((flat - flat.mean()) / step) + 128, 0, 255).astype(np.uint8)
    meanings = (np.arange(256, dtype=np.float32) - 128) * np.float32(step) + flat.mean()
    return meanings.astype(np.float32).tobytes() + places.tobytes()


def _from_eight_bits(_: Any, data: bytes) -> np.ndarray:
    return np.frombuffer(data[:1024], np.float32)[np.frombuffer(data[1024:], np.uint8)]


OF_WEIGHTS = (
    Format(
        "np.save", "numpy", lambda np, a: _written(np.save, _flat(a)), lambda _, d: _read_each(d)
    ),
    Format("np.savez", "numpy", lambda np, a: _written(np.savez, *a), lambda _, d: _read_all(d)),
    Format(
        "np.savez_compressed",
        "numpy",
        lambda np, a: _written(np.savez_compressed, *a),
        lambda _, d: _read_all(d),
    ),
    Format("safetensors", "safetensors.numpy", _safetensors, lambda library, d: library.load(d)),
    Format("blosc2 bitshuffle", "blosc2", _blosc2, lambda library, d: library.decompress2(d)),
    Format(
        "Flower: np.save a tensor",
        "numpy",
        lambda np, a: b"".join(_written(np.save, array) for array in a),
        lambda _, d: _read_each(d),
    ),
)
OF_DIFFERENCES = (
    Format(
        "hivemind float16",
        "numpy",
        lambda np, a: _flat(a).astype(np.float16).tobytes(),
        lambda np, d: np.frombuffer(d, np.float16).astype(np.float32),
    ),
    Format("hivemind uniform 8 bit", "numpy", _eight_bits, _from_eight_bits),
)


ZIPNN = """
import sys, time
try:
    import zipnn
except ImportError:
    sys.exit("not installed")
raw = sys.stdin.buffer.read()
def best(work):
    taken = []
    for _ in range(3):
        given = bytearray(raw)
        start = time.process_time()
        made = work(given)
        taken.append(time.process_time() - start)
    return min(taken), bytes(made)
coder = zipnn.ZipNN(input_format="byte", bytearray_dtype="float32", threads=1)
encode_s, data = best(lambda given: coder.compress(given))
decode_s, back = best(lambda given: coder.decompress(data))
assert back == raw
print(len(data), encode_s, decode_s)
"""
"""Runs in a process of its own: beside a compiled model zipnn 0.5 ends with a broken memory."""


# -- sizes, in the loop ------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Mean bytes of one model's frames over a training's rounds, and of its weights."""

    weights: int
    plain: float
    """np.savez_compressed of the float32 weights."""
    frames: dict[str, float]

    def ratio(self, frame: str) -> float:
        """Return how many times smaller a frame is than the weights."""
        return self.plain / self.frames[frame]


def sizes(name: str, quick: bool) -> Sizes:
    """Train a model twice, usual and frugal, and return what was sent."""
    task = TASKS[name]
    length = QUICK_LENGTH if quick else LENGTHS[name]
    learner = Learner(task, width=task.small if quick else task.large, steps=length[0] * length[1])
    done = list(_trained(learner, usual(task), length))
    frugal = _trained(learner, FRUGAL, length)
    shown = done[:: max(1, len(done) // 3)]  # the weights themselves hardly change in size
    plain = [len(_compressed(learner.layout, one.published)) for one in shown]
    keys = [len(frames.encode_keyframe(KEY, key(one.published))) for one in shown]
    found = {
        "up": [one.update_bytes for one in done],
        "up, frugal": [one.update_bytes for one in frugal],
        "down": [one.delta_bytes for one in done],
        "keyframe": keys,
    }
    means = {frame: float(np.mean(each)) for frame, each in found.items()}
    return Sizes(learner.layout.size, float(np.mean(plain)), means)


def _trained(learner: Learner, coding: Coding, length: tuple[int, int]) -> Iterator[Round]:
    return rounds(learner, coding, seed=0, count=length[0], steps=length[1])


def _compressed(layout: Layout, weights: Flat) -> bytes:
    return _written(np.savez_compressed, *layout.views(weights))


# -- seconds, on the large network ---------------------------------------------------------------

Row = tuple[object, ...]


def best_of_three(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of one call, and what it returned."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        result = work()
        taken.append(time.process_time() - start)
    return min(taken), result


class Large:
    """A large dense network after two short rounds."""

    def __init__(self, quick: bool) -> None:
        steps = 5 if quick else 10
        learner = Learner(TASKS["mlp"], width=QUICK_LARGE if quick else LARGE, steps=2 * steps)
        self.layout = learner.layout
        self.coding = usual(learner.task)
        self.last = list(_trained(learner, self.coding, (2, steps)))[-1]
        self.plain = len(_compressed(self.layout, self.last.published))

    def rows(self) -> list[Row]:
        """Return a line for each format, ours last."""
        weights = self.layout.views(self.last.published)
        change = self.layout.views(self.last.wanted)
        return [
            self._text(),
            *(self._other(one, weights) for one in OF_WEIGHTS),
            self._zipnn(),
            *(self._other(one, change) for one in OF_DIFFERENCES),
            *(self._difference(*frame) for frame in self._differences()),
            self._keyframe(),
        ]

    def _differences(self) -> Iterator[tuple[str, Flat, float]]:
        coding = self.coding
        assert coding.up and FRUGAL.up and coding.down
        yield "ours, up", self.last.wanted, coding.up
        yield "ours, up, frugal", self.last.wanted, FRUGAL.up
        yield "ours, down", self.last.owed, coding.down

    def _row(self, name: str, size: float, encode_s: float, decode_s: float) -> Row:
        bits = 8 * size / self.layout.size
        return ("large", name, size / 1e6, bits, self.plain / size, encode_s, decode_s)

    def _text(self) -> Row:
        part = self.last.published[::TEXT_PART]
        encode_s, data = best_of_three(lambda: _written(np.savetxt, part))
        decode_s, _ = best_of_three(lambda: np.loadtxt(BytesIO(data)))
        times = self.layout.size / len(part)
        return self._row("np.savetxt", len(data) * times, encode_s * times, decode_s * times)

    def _other(self, one: Format, arrays: Arrays) -> Row:
        try:
            library = importlib.import_module(one.needs)
        except ImportError:
            return ("large", one.name, "not installed", "", "", "", "")
        encode_s, data = best_of_three(lambda: one.encode(library, arrays))
        decode_s, _ = best_of_three(lambda: one.decode(library, data))
        return self._row(one.name, len(data), encode_s, decode_s)

    def _zipnn(self) -> Row:
        done = subprocess.run(
            [sys.executable, "-c", ZIPNN],
            input=self.last.published.tobytes(),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            return ("large", "zipnn", done.stderr.decode().split("\n")[0], "", "", "", "")
        size, encode_s, decode_s = map(float, done.stdout.split())
        return self._row("zipnn", size, encode_s, decode_s)

    def _difference(self, name: str, change: Flat, k: float) -> Row:
        encode_s, data = best_of_three(
            lambda: frames.encode_difference(UPDATE, change, self.layout, k=k)
        )
        decode_s, _ = best_of_three(lambda: frames.decode_difference(data, self.layout))
        return self._row(name, len(data), encode_s, decode_s)

    def _keyframe(self) -> Row:
        weights = key(self.last.published)
        encode_s, data = best_of_three(lambda: frames.encode_keyframe(KEY, weights))
        decode_s, _ = best_of_three(lambda: frames.decode_keyframe(data, self.layout))
        return self._row("ours, keyframe", len(data), encode_s, decode_s)

    def merge_over_copy(self) -> float:
        """Return the time to add one decoded update to a merge, over that of a copy.

        The product's merge of five updates less its merge of one, over four: what is left is
        the inner operation.
        """
        weights, wanted = self.last.published, self.last.wanted
        frame = frames.encode_difference(UPDATE, wanted, self.layout, k=self.coding.up or 1.0)
        change = frames.decode_coded(frame, self.layout)[1]
        place = np.empty_like(wanted)
        pairs = []
        for _ in range(15):
            one, five = (self._merge_s(weights, change, count) for count in (1, 5))
            copies = [_seconds(lambda: np.copyto(place, wanted)) for _ in range(3)]
            pairs.append(((five - one) / 4, statistics.median(copies)))
        added, copied = zip(*pairs, strict=True)
        return statistics.median(added) / statistics.median(copied)

    def _merge_s(self, weights: Flat, change: Coded, count: int) -> float:
        given, at_work = (
            [Contribution(lambda: change, 100.0, 100.0)] * count,
            activity.measure([100] * count),
        )
        return _seconds(lambda: merge(weights, self.layout, given, at_work))


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def speed(rows: list[Row], weights: int) -> float:
    """Return the megabytes of float32 a second of the slower way of an update."""
    (update,) = [row for row in rows if row[1] == "ours, up"]
    return 4 * weights / 1e6 / max(float(update[5]), float(update[6]))


# -- report ------------------------------------------------------------------------------------


def size_rows(name: str, found: Sizes) -> list[Row]:
    """Return the lines of one model trained in the loop."""
    each = {"np.savez_compressed": found.plain} | found.frames
    return [
        (name, what, size / 1e6, 8 * size / found.weights, found.plain / size, "", "")
        for what, size in each.items()
    ]


def bars(found: dict[str, Sizes], large: Large, rows: list[Row]) -> list[Bar]:
    """Return the figures that are held against bars: the worst model's."""
    names = {
        "up.ratio": "up",
        "up.ratio_frugal": "up, frugal",
        "down.ratio": "down",
        "key.ratio": "keyframe",
    }
    others = {"up": [found["mlp"], found["cnn"]]}  # the transformer has a bar of its own
    worst = [
        Bar(bar, min(one.ratio(frame) for one in others.get(frame, found.values())), "x")
        for bar, frame in names.items()
    ]
    return [
        *worst,
        Bar("up.ratio_transformer", found["transformer"].ratio("up"), "x"),
        Bar("codec.mb_per_s", speed(rows, large.layout.size), "MB/s"),
        Bar("merge.vs_copy", large.merge_over_copy(), "x"),
    ]


def main() -> None:
    """Measure and report."""
    wanted = arguments(__doc__ or "")
    found = {name: sizes(name, wanted.quick) for name in TASKS}
    large = Large(wanted.quick)
    rows = large.rows()
    weights = ", ".join(f"{name} {one.weights:,}" for name, one in found.items())
    report(
        wanted,
        f"Weights on the wire: {weights}, large {large.layout.size:,} weights",
        ("model", "what", "MB", "bits a weight", "x", "encode s", "decode s"),
        [*(row for name, one in found.items() for row in size_rows(name, one)), *rows],
        bars(found, large, rows),
    )


if __name__ == "__main__":
    main()
