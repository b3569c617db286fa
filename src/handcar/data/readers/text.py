"""Text: tokens in windows of one length, and the next token at every place.

The tokens are characters, bytes where the text has too many different characters, or what a
tokenizer makes. The end of the text is held back to measure on: windows drawn at random would
leave their neighbours' words among those to train on.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data.reading import Arrays, Found, Options, Reading, library
from handcar.data.sources import LEAST_RECORDS
from handcar.data.spool import Spool, expect_room
from handcar.errors import DataError
from handcar.files import MB

MOST_CHARACTERS = 512
"""Text with more different characters is read as its UTF-8 bytes."""
LONG_LINE = 2 * MB
"""Of a longer one the tokenizer gets a part, or it would be wholly in memory."""
TOKENIZER_BYTES = 64 * MB

Tokens = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Coding:
    """How text becomes token numbers."""

    told: str
    size: int
    dtype: str
    tokens: Callable[[str], Tokens]
    vocabulary: tuple[str, ...] = ()


def read(path: Path, reading: Reading) -> Found:
    """Read a UTF-8 text file."""
    paths = [path] if reading.options.test is None else [path, reading.options.test]
    total = 2 * sum(_size(one) for one in paths)
    meter = _Meter(reading, total)
    coding = _coding(paths, reading, meter)
    spooled = [
        _tokens(one, coding, reading.folder / f"{number}.npy", meter)
        for number, one in enumerate(paths)
    ]
    if len(spooled) == 1:
        spooled = _parted(spooled[0], reading.options)
    window = reading.options.window
    parts = [_windows(tokens, window) for tokens in spooled]
    if len(parts[0]["x"]) < LEAST_RECORDS:
        raise DataError(
            f"{path}: makes {len(parts[0]['x'])} windows of {window} tokens to train on, expected "
            f"at least {LEAST_RECORDS}: give more text, or a smaller --window"
        )
    test = parts[1] if len(parts) > 1 and len(parts[1]["x"]) else None
    return Found(
        parts[0],
        test,
        vocabulary=coding.vocabulary,
        notes=tuple(_notes(coding, spooled, window, reading, held_back=test is not None)),
        kind="text",
    )


@dataclass(slots=True)
class _Meter:
    reading: Reading
    total: int
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        self.reading.on_progress(self.done, self.total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as fault:
        raise DataError(f"{path}: can't be read: {fault.strerror}") from fault


def _pieces(path: Path, meter: _Meter) -> Iterator[str]:
    """Yield the text piece by piece. Raises DataError for what is no UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = place = 0
    with path.open("rb") as file:
        while True:
            raw = file.read(MB)
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as fault:
                line = lines + 1 + fault.object[: fault.start].count(b"\n")
                raise DataError(
                    f"{path}: line {line}: expected UTF-8 text, got the byte "
                    f"0x{fault.object[fault.start]:02x} at offset {place - waiting + fault.start:,}"
                    ": save the file as UTF-8"
                ) from fault
            yield text.removeprefix("\ufeff") if place == 0 else text
            if not raw:
                return
            place += len(raw)
            lines += raw.count(b"\n")
            meter.add(len(raw))


# -- how text becomes tokens -----------------------------------------------------------------


def _coding(paths: list[Path], reading: Reading, meter: _Meter) -> _Coding:
    if reading.options.tokenizer is not None:
        meter.add(meter.total // 2)
        return _tokenized(reading.options.tokenizer)
    characters: set[str] = set()
    for path in paths:
        for piece in _pieces(path, meter):
            characters.update(piece)
    if not characters:
        raise DataError(f"{paths[0]}: expected text, the file is empty")
    if len(characters) > MOST_CHARACTERS:
        told = f"{len(characters):,} different characters, more than {MOST_CHARACTERS}: its bytes"
        return _Coding(told, 256, "u1", lambda text: np.frombuffer(text.encode(), np.uint8))
    return _by_characters(tuple(sorted(characters)))


def _by_characters(vocabulary: tuple[str, ...]) -> _Coding:
    points = np.array([ord(character) for character in vocabulary], "<u4")

    def tokens(text: str) -> Tokens:
        return np.searchsorted(points, np.frombuffer(text.encode("utf-32-le"), "<u4"))

    told = f"its {len(vocabulary)} different characters"
    smallest = "u1" if len(vocabulary) <= 256 else "<u2"
    return _Coding(told, len(vocabulary), smallest, tokens, vocabulary)


def _tokenized(path: Path) -> _Coding:
    made = library("tokenizers", "tokenizers", "text with a tokenizer").Tokenizer
    if not path.is_file() or path.stat().st_size > TOKENIZER_BYTES:
        raise DataError(f"{path}: expected a tokenizer.json of at most {TOKENIZER_BYTES:,} bytes")
    try:
        tokenizer = made.from_str(path.read_text("utf-8"))
    except Exception as fault:  # the package raises nothing more precise
        raise DataError(f"{path}: expected a Hugging Face tokenizer.json: {fault}") from fault

    def tokens(text: str) -> Tokens:
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)

    size = tokenizer.get_vocab_size()
    return _Coding(f"the {size:,} tokens of {path.name}", size, "<u4", tokens)


def _tokens(path: Path, coding: _Coding, target: Path, meter: _Meter) -> Tokens:
    """Write all tokens of a file, and map them."""
    expect_room(target.parent, _size(path) * np.dtype(coding.dtype).itemsize)
    with Spool(target, (), coding.dtype) as spool:
        waiting = ""
        for piece in _pieces(path, meter):
            # A tokenizer must not be given half a word: only whole lines, if there are any.
            waiting += piece
            end = waiting.rfind("\n") + 1 or (len(waiting) if len(waiting) > LONG_LINE else 0)
            spool.append(coding.tokens(waiting[:end]))
            waiting = waiting[end:]
        spool.append(coding.tokens(waiting))
        return spool.mapped()


# -- windows ---------------------------------------------------------------------------------


def _parted(tokens: Tokens, options: Options) -> list[Tokens]:
    """Return the beginning to train on and, if any is wanted, the end to measure on."""
    if not options.validation:
        return [tokens]
    held_back = max(round(len(tokens) * options.validation), options.window + 1)
    kept = max(0, len(tokens) - held_back)
    return [tokens[:kept], tokens[kept:]]


def _windows(tokens: Tokens, window: int) -> Arrays:
    """Return x, windows one after the other, and y, what follows each token: no copies."""
    count = max(0, (len(tokens) - 1) // window)
    x = tokens[: count * window].reshape(count, window)
    y = tokens[1 : count * window + 1].reshape(count, window) if count else x
    return {"x": x, "y": y}


def _notes(
    coding: _Coding, parts: list[Tokens], window: int, reading: Reading, *, held_back: bool
) -> Iterator[str]:
    tokens = sum(map(len, parts))
    yield f"Text as {coding.told}: {tokens:,} tokens, numbered from 0 to {coding.size - 1:,}."
    yield f"x is {window} tokens, y the token that follows each of them."
    if held_back and reading.options.test is None:
        yield f"The last {reading.options.validation:.0%} of the text are held back to measure on."
