"""The rows of a Parquet file, batch by batch, through pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handcar.data.readers.csvfile import PASSES, Row, Table
from handcar.data.reading import Reading, library
from handcar.errors import DataError
from handcar.files import MB

BATCH = 4096


def opened(path: Path, reading: Reading, like: Table | None = None) -> Table:
    """Look at a file's columns; those of a test file are `like` the training file's.

    Raises DataError.
    """
    with _file(path) as file:
        schema, records = file.schema_arrow, file.metadata.num_rows
        names = tuple(schema.names) if like is None else like.names
        if missing := [name for name in names if name not in schema.names]:
            raise DataError(f"{path}: expected the columns of the training file, {missing} lack")
        texts = tuple(_is_text(path, schema.field(name)) for name in names)
    passes = 0

    def all_rows() -> Iterator[tuple[int, Row]]:
        nonlocal passes
        number = 0
        with _file(path) as file:
            for batch in file.iter_batches(BATCH, columns=list(names), use_threads=False):
                columns = [batch.column(name).to_pylist() for name in names]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row
                done = min(passes, PASSES - 1) * records + number
                reading.on_progress(done, PASSES * records)
        passes += 1

    return Table(path, names, True, texts, "row", (), all_rows)


@contextmanager
def _file(path: Path) -> Iterator[Any]:
    arrow = library("pyarrow", "pyarrow", "Parquet files")
    parquet = library("pyarrow.parquet", "pyarrow", "Parquet files")
    try:
        # Page by page: pyarrow's defaults would read the whole file ahead and keep it.
        with parquet.ParquetFile(path, buffer_size=MB, pre_buffer=False) as file:
            yield file
    except (arrow.ArrowException, UnicodeDecodeError) as fault:
        raise DataError(f"{path}: expected a Parquet file, which can't be read: {fault}") from fault
    except OSError as fault:
        reason = fault.strerror or str(fault)
        raise DataError(f"{path}: expected a Parquet file, which can't be read: {reason}") from (
            fault
        )


def _is_text(path: Path, field: Any) -> bool:
    """Say whether a column holds texts. Raises DataError for what is neither text nor number."""
    types = library("pyarrow.types", "pyarrow", "Parquet files")
    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return True
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return False
    if types.is_null(kind):
        return True
    raise DataError(
        f"{path}: the column {field.name} holds {field.type}: expected numbers, texts or truth "
        "values. Turn it into these, or leave it out"
    )
