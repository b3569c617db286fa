"""A chunk: records on the wire, column by column, exact to the bit unless its owner chose not.

A container (wire/container.py) with the header

    {"kind": "chunk", "records": n,
     "columns": [{"name": "x", "dtype": "u1", "shape": [28, 28], "form": "jxl", "strip": 146},
                 {"name": "y", "dtype": "u1", "shape": [], "form": "plain", "coder": "zstd"}]}

and each column's sections, in order; `shape` is that of one record. A form is how a column is
laid out: as numbers (numbers.py), as pictures (pictures.py), or as another column shifted by
so many places along the record's first axis, as the y of a text model is. `choose` measures
which is smallest; docs/reference/chunks.md is the format byte by byte.

A chunk comes from a stranger: every size is checked before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handcar.data import pictures
from handcar.data.numbers import FORMS, Form
from handcar.data.pictures import Jpegs
from handcar.data.spec import COLUMNS, DECODED_BYTES, DIMENSIONS, DTYPES, Columns, Spec, spec_of
from handcar.data.squeeze import CODERS
from handcar.errors import ChunkError, MissingLibrary
from handcar.files import KB
from handcar.wire import container

CODEC = "columns"
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""Names become file names on volunteers' disks."""
SAMPLE_BYTES = 512 * KB
"""So much of a column is coded in every way, to see which is smallest."""
SLOWER = 1.005
"""What a slower coder must save over Zstandard to be worth its time."""
SHIFTS = (0, 1)

Column = NDArray[Any] | Jpegs
Given = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Choice:
    """How one column is coded."""

    form: str
    coder: str = ""
    of: str = ""
    """For `shifted`: which column, and by how many places."""
    by: int = 0
    quality: int | None = None
    """For `jpeg`: set where the owner gives some of the pictures away."""


@dataclass(frozen=True, slots=True)
class _Coded:
    told: dict[str, Any]
    sections: list[bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.sections))


# -- encoding --------------------------------------------------------------------------------


def encode(columns: Given, choices: Mapping[str, Choice] | None = None) -> bytes:
    """Return the chunk of `columns`: arrays with one row a record, in equal numbers.

    The types are kept as they are. `choices` are those of `choose`, for these or for records
    like them. Raises ChunkError for what `decode` would refuse, MissingLibrary.
    """
    records = {array.shape[0] if array.shape else 0 for array in columns.values()}
    if len(records) != 1:
        raise ChunkError(f"expected columns of one length, got the lengths {sorted(records)}")
    specs = [spec_of(name, array) for name, array in columns.items()]
    described = [
        {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs
    ]
    header = {"kind": "chunk", "records": records.pop(), "columns": described}
    _sound(header)
    columns = {name: _little(array) for name, array in columns.items()}
    coded = [_coded(columns, spec, (choices or {}).get(spec.name)) for spec in specs]
    header["columns"] = [one | more.told for one, more in zip(described, coded, strict=True)]
    return container.pack(header, [section for one in coded for section in one.sections])


def _little(array: Column) -> Column:
    if isinstance(array, Jpegs):
        return array
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _coded(columns: Given, spec: Spec, choice: Choice | None) -> _Coded:
    if choice is None or not _fits(columns, spec, choice):
        choice = _smallest(columns, spec)
    array = columns[spec.name]
    if isinstance(array, Jpegs):
        return _of_files(array)
    if choice.form == "jpeg":
        return _of_files(pictures.as_jpegs(array, choice.quality or 0))
    if choice.form == "jxl":
        strip = pictures.strip_records(spec)
        return _Coded({"form": "jxl", "strip": strip}, pictures.to_jxl(array, spec))
    return _of_numbers(array, choice)


def _of_files(jpegs: Jpegs) -> _Coded:
    sections, told = pictures.to_jpeg(jpegs)
    return _Coded({"form": "jpeg", **told}, sections)


def _of_numbers(array: NDArray[Any], choice: Choice) -> _Coded:
    told: dict[str, Any] = {"form": choice.form}
    if choice.form == "shifted":
        told |= {"of": choice.of, "by": choice.by}
        if choice.by == 0:
            return _Coded(told, [])
        array = array[:, -choice.by :]
    data, extras = _form(choice.form).write(array)
    return _Coded({**told, "coder": choice.coder, **extras}, [CODERS[choice.coder].squeeze(data)])


def _form(name: str) -> Form:
    return FORMS["plain" if name == "shifted" else name]


def _fits(columns: Given, spec: Spec, choice: Choice) -> bool:
    """Say whether a choice that was made for a sample holds for these records."""
    array = columns[spec.name]
    if isinstance(array, Jpegs) or choice.form == "jpeg":
        return choice.form == "jpeg"
    if choice.form == "jxl":
        return pictures.may_be_pictures(spec)
    if choice.form == "shifted":
        return _is_shifted(array, columns[choice.of], choice.by)
    return FORMS[choice.form].fits(array)


def _is_shifted(array: Column, other: Column, by: int) -> bool:
    """Say whether an array is another one moved by so many places along its second axis."""
    if isinstance(array, Jpegs) or isinstance(other, Jpegs):
        return False
    alike = array.dtype == other.dtype and array.shape == other.shape
    if not alike or array.ndim < 2 or array.shape[1] <= by or array.dtype.kind == "f":
        return False  # floats that are equal may differ in their bits
    return bool((array[:, : array.shape[1] - by] == other[:, by:]).all())


# -- choosing --------------------------------------------------------------------------------


def choose(columns: Given, *, lossy_quality: int | None = None) -> dict[str, Choice]:
    """Return how to code each column in the fewest bytes, measured on a sample of it.

    With `lossy_quality`, from 1 to 100, columns that look like pictures become JPEG files of
    that quality, and lose what these lose. Raises ChunkError, MissingLibrary.
    """
    columns = {name: _little(array) for name, array in columns.items()}
    specs = [spec_of(name, array) for name, array in columns.items()]
    return {spec.name: _smallest(columns, spec, lossy_quality) for spec in specs}


def _smallest(columns: Given, spec: Spec, lossy_quality: int | None = None) -> Choice:
    if isinstance(columns[spec.name], Jpegs):
        return Choice("jpeg")
    if lossy_quality is not None and pictures.may_be_pictures(spec):
        return Choice("jpeg", quality=lossy_quality)
    sample = _sample(columns, spec)
    before = list(columns)[: list(columns).index(spec.name)]
    found = []
    for choice in _candidates(sample, spec, before):
        try:
            size = _measured(sample, spec, choice)
        except MissingLibrary:
            continue  # without the package, pictures travel as numbers
        found.append((size * (1 if choice.coder == "zstd" else SLOWER), choice))
    return min(found, key=lambda one: one[0])[1]


def _sample(columns: Given, spec: Spec) -> Given:
    records = len(columns[spec.name])
    some = max(1, min(records, SAMPLE_BYTES // spec.record_bytes))
    if some == records:
        return columns
    # Runs from all over: neighbours may be alike, and the file may be sorted.
    runs = np.array_split(np.arange(some), min(some, 16))
    rows = np.concatenate([run + (records - some) * run[0] // some for run in runs])
    return {name: a if isinstance(a, Jpegs) else a[rows] for name, a in columns.items()}


def _candidates(columns: Given, spec: Spec, before: list[str]) -> Iterator[Choice]:
    array = columns[spec.name]
    if isinstance(array, Jpegs):
        return
    for of in before:
        for by in SHIFTS:
            if _is_shifted(array, columns[of], by):
                yield from (Choice("shifted", coder, of, by) for coder in CODERS)
    if pictures.may_be_pictures(spec):
        yield Choice("jxl")
    for name, form in FORMS.items():
        if form.fits(array):
            yield from (Choice(name, coder) for coder in CODERS)


def _measured(columns: Given, spec: Spec, choice: Choice) -> int:
    coded = _coded(columns, spec, choice)
    if choice.form == "jxl":
        # The one form whose exactness is another program's promise.
        records = len(columns[spec.name])
        back = pictures.from_jxl(coded.sections, spec, records, coded.told["strip"])
        if not (back == columns[spec.name]).all():
            raise MissingLibrary("this imagecodecs does not give back the pictures it was given")
    return coded.size


def codec_name(choices: Mapping[str, Choice]) -> str:
    """Return the codec's name for the manifest: which decoders it takes, and what was lost."""
    pictured = sorted({one.form for one in choices.values()} & {"jxl", "jpeg"})
    lossy = {f"lossy{one.quality}" for one in choices.values() if one.quality}
    return "+".join([CODEC, *pictured, *sorted(lossy)])


# -- decoding --------------------------------------------------------------------------------


def decode(data: bytes | memoryview) -> Columns:
    """Return the columns of a chunk.

    Raises ChunkError for anything unsound or too large, MissingLibrary when pictures need a
    package that is not here.
    """
    header, sections = container.unpack(data, error=ChunkError)
    records, specs = _sound(header)
    counts = [
        _sections(told, spec, records) for told, spec in zip(header["columns"], specs, strict=True)
    ]
    if len(sections) != sum(counts):
        raise ChunkError(f"expected {sum(counts)} sections, got {len(sections)}")
    found: Columns = {}
    for told, spec, count in zip(header["columns"], specs, counts, strict=True):
        own, sections = sections[:count], sections[count:]
        found[spec.name] = _read(told, spec, records, own, found)
    return found


def decoded_bytes(data: bytes | memoryview) -> int:
    """Return how many bytes a chunk decodes to. Raises ChunkError."""
    records, specs = _sound(container.unpack(data, error=ChunkError)[0])
    return records * sum(spec.record_bytes for spec in specs)


def has_pictures(data: bytes | memoryview) -> bool:
    """Say whether decoding a chunk takes a decoder of pictures. Raises ChunkError."""
    header, _ = container.unpack(data, error=ChunkError)
    _sound(header)
    return any(column.get("form") in ("jxl", "jpeg") for column in header["columns"])


def _sections(told: dict[str, Any], spec: Spec, records: int) -> int:
    """Return how many sections a column has; ChunkError when its form is unsound."""
    form = told.get("form")
    if form == "jpeg":
        return 3
    if form == "jxl":
        strip = told.get("strip")
        if not pictures.may_be_pictures(spec) or not _is_count(strip):
            raise ChunkError(f"column {spec.name}: expected strips of pictures")
        return -(-records // int(str(strip)))
    if form == "shifted":
        return 1 if told.get("by") else 0
    if not isinstance(form, str) or form not in FORMS:
        raise ChunkError(f"column {spec.name}: an unknown form {_shown(form)}")
    return 1


def _read(
    told: dict[str, Any],
    spec: Spec,
    records: int,
    sections: Sequence[memoryview],
    before: Columns,
) -> NDArray[Any]:
    form = told["form"]
    if form == "jpeg":
        return pictures.from_jpeg(sections, spec, records, told.get("heads"))
    if form == "jxl":
        return pictures.from_jxl(sections, spec, records, told["strip"])
    if form == "shifted":
        return _read_shifted(told, spec, records, sections, before)
    return _read_numbers(told, spec, records, sections[0])


def _read_numbers(
    told: dict[str, Any], spec: Spec, records: int, section: memoryview
) -> NDArray[Any]:
    coder = told.get("coder")
    if not isinstance(coder, str) or coder not in CODERS:
        raise ChunkError(f"column {spec.name}: an unknown coder {_shown(coder)}")
    form = _form(told["form"])
    data = CODERS[coder].unsqueeze(section, form.size(spec, records, told))
    array = form.read(data, spec, records, told)
    if spec.dtype == "b1" and array.view(np.uint8).max() > 1:
        raise ChunkError(f"column {spec.name}: a truth value is neither 0 nor 1")
    return array


def _read_shifted(
    told: dict[str, Any],
    spec: Spec,
    records: int,
    sections: Sequence[memoryview],
    before: Columns,
) -> NDArray[Any]:
    of, by = told.get("of"), told.get("by")
    other = before.get(of) if isinstance(of, str) else None
    if other is None or by not in SHIFTS or isinstance(by, bool):
        raise ChunkError(f"column {spec.name}: expected a column before it, got {_shown(of)}")
    if spec_of(spec.name, other) != spec or not spec.shape or spec.shape[0] <= by:
        raise ChunkError(f"column {spec.name}: it is not like {of}")
    if by == 0:
        return other.copy()
    rest = Spec(spec.name, spec.dtype, (by, *spec.shape[1:]))
    return np.concatenate([other[:, by:], _read_numbers(told, rest, records, sections[0])], axis=1)


# -- the header ------------------------------------------------------------------------------


def _sound(header: dict[str, Any]) -> tuple[int, list[Spec]]:
    """Return how many records there are and what the columns are, once all of it is sound."""
    if header.get("kind") != "chunk":
        raise ChunkError(f"expected a chunk, got {_shown(header.get('kind'))}")
    records, columns = header.get("records"), header.get("columns")
    if not isinstance(records, int) or not _is_count(records):
        raise ChunkError(f"expected the number of records, got {_shown(records)}")
    if not isinstance(columns, list) or not 1 <= len(columns) <= COLUMNS:
        raise ChunkError(f"expected a list of 1 to {COLUMNS} columns")
    specs = [_spec(column) for column in columns]
    if len({spec.name for spec in specs}) != len(specs):
        raise ChunkError("two columns have the same name")
    decoded = records * sum(spec.record_bytes for spec in specs)
    if decoded > DECODED_BYTES:
        raise ChunkError(f"expected at most {DECODED_BYTES} decoded bytes, got {decoded}")
    return records, specs


def _spec(column: object) -> Spec:
    if not isinstance(column, dict):
        raise ChunkError("a column is not described by a JSON object")
    name, dtype, shape = column.get("name"), column.get("dtype"), column.get("shape")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ChunkError(f"expected a column's name in small letters, got {_shown(name)}")
    if dtype not in DTYPES:
        raise ChunkError(f"column {name}: expected one of {', '.join(DTYPES)}, got {_shown(dtype)}")
    if not isinstance(shape, list) or len(shape) > DIMENSIONS or not all(map(_is_count, shape)):
        raise ChunkError(f"column {name}: its shape is unsound: {_shown(shape)}")
    return Spec(name, dtype, tuple(shape))


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number < 2**40


def _shown(value: object) -> str:
    return repr(value)[:60]
