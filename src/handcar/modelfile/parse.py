"""JSON from a stranger: bytes -> plain values, or why not."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

from handcar.errors import FieldProblem, ModelFileError
from handcar.modelfile.limits import (
    MAX_BYTES,
    MAX_INTEGER_DIGITS,
    MAX_NESTING,
    MAX_NUMBER_CHARACTERS,
)

# A string to its end (or the end of the text), in one pass without stepping back, or a bracket.
STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[][{}]', re.DOTALL)


def parse(raw: bytes) -> object:
    """Return the JSON value in `raw`.

    Raises ModelFileError for more than 2 MB, other text than UTF-8, nesting deeper than 32,
    a key given twice, NaN or Infinity, and whole numbers of more than 15 digits.
    """
    if len(raw) > MAX_BYTES:
        refuse(f"must be at most {MAX_BYTES:,} bytes, got {len(raw):,}")
    text = decode(raw)
    depth = nesting(text)
    if depth > MAX_NESTING:
        refuse(f"must be nested at most {MAX_NESTING} deep, got {depth}")
    return parse_text(text)


def parse_text(text: str) -> object:
    """Return the JSON value in a text that was measured already."""
    try:
        return json.loads(
            text,
            object_pairs_hook=object_without_doubles,
            parse_int=read_integer,
            parse_float=read_float,
            parse_constant=refuse_constant,
        )
    except json.JSONDecodeError as error:
        refuse(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")


def decode(raw: bytes) -> str:
    """Return `raw` as text, without a byte order mark."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(f"must be UTF-8 text, got byte 0x{raw[error.start]:02x} at offset {error.start}")


def nesting(text: str) -> int:
    """Return how deep brackets are nested, counted without parsing: `json` dies of depth."""
    return max(depths(text), default=0)


def depths(text: str) -> Iterator[int]:
    """Yield the depth after each bracket."""
    depth = 0
    for match in STRING_OR_BRACKET.finditer(text):
        bracket = match.group()
        depth += (bracket in "[{") - (bracket in "]}")
        yield depth


def object_without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object, or refuse it when a key is given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(double, _)] = Counter(key for key, _ in pairs).most_common(1)
        refuse(f"key {double[:60]!r} is given twice in one object; expected it once")
    return found


def read_integer(digits: str) -> int:
    """Return a whole number of at most 15 digits."""
    if len(digits.lstrip("-")) > MAX_INTEGER_DIGITS:
        refuse(f"whole numbers have at most {MAX_INTEGER_DIGITS} digits, got {digits[:40]}")
    return int(digits)


def read_float(digits: str) -> float:
    """Return a finite number."""
    if len(digits) > MAX_NUMBER_CHARACTERS:
        refuse(f"numbers have at most {MAX_NUMBER_CHARACTERS} characters, got {digits[:40]}...")
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        refuse(f"number {digits} is too large")
    return number


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN, Infinity and -Infinity, which are not JSON."""
    refuse(f"{name} is not a number that a model file may use")


def refuse(message: str) -> NoReturn:
    """Raise one problem of the file as a whole."""
    raise ModelFileError([FieldProblem("", f"the model file {message}")])
