"""Rows of Parquet files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from gemtune.datasets.reading.media import COLUMNS
from gemtune.datasets.refusal import Refused
from trainer.dataset.row import Row, bad_dataset, too_long

# Bytes of a column per read. By default pyarrow reads a whole row group, with all its pictures.
READ_BYTES = 1024 * 1024
# Rows are decoded in batches of about this many bytes, and of at most this many rows.
BATCH_BYTES, BATCH_ROWS = 8 * 1024 * 1024, 64
# Fields whose bytes are a picture's or an audio clip's, and never a text.
_OF_MEDIA = frozenset((*COLUMNS, "bytes"))


def parquet_rows(path: Path, longest: int, *, named: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file, with all columns.

    A column without a value is a field that the row does not have. longest: limit of a row in bytes. Raises StepError
    `bad_dataset`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
            floats = {field.name for field in file.schema_arrow if _has_floats(field.type)}
            for group in range(file.num_row_groups):
                metadata = file.metadata.row_group(group)
                bytes_per_row = metadata.total_byte_size // max(1, metadata.num_rows)
                rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, bytes_per_row)))
                for batch in file.iter_batches(batch_size=rows, row_groups=[group]):
                    for index in range(batch.num_rows):
                        number += 1
                        yield number, _row(batch.slice(index, 1), longest, floats)
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"{named} is not a readable Parquet file: {str(error)[:200]}"
        raise bad_dataset(message, hint="use a whole copy of the file") from error


def _row(batch: Any, longest: int, floats: Collection[str]) -> dict[str, Any] | Refused:
    """Return a row as a file of JSON lines would have it.

    floats: names of the columns with floats of fewer than 64 bits.
    """
    if batch.nbytes > longest:
        return too_long(longest)
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            value = column[0].as_py(maps_as_pydicts="strict")
            value = _shortest(value, column.type) if name in floats else value
        except KeyError:
            return Refused(f"a map in its column {name[:80]!r} has a key twice: keep one")
        except UnicodeDecodeError:  # neither Parquet writers nor pyarrow's reader check strings before
            return Refused(f"its column {name[:80]!r} is not UTF-8 text")
        except (ValueError, OverflowError):  # e.g. a time beyond any calendar
            value = str(column.cast("int64")[0]) if column.type.id in _times() else None
            if value is None:
                return Refused(f"the value of its column {name[:80]!r} cannot be read")
        if value is None:
            continue
        try:
            row[name] = value if isinstance(value, Decimal) else _plain(value, name)
        except _NotJson as problem:
            return Refused(str(problem))
    return row


def _shortest(value: Any, kind: Any) -> Any:
    """Return a value with the shortest digits of its floats of 16 and 32 bits.

    Python would show the digits of 64 bits: 0.10000000149011612 for 0.1, which files of JSON and CSV have. kind: type
    of the column in pyarrow.
    """
    import numpy as np
    import pyarrow.types as kinds

    if value is None:
        return None
    if kinds.is_float32(kind) or kinds.is_float16(kind):
        return float(str((np.float32 if kinds.is_float32(kind) else np.float16)(value)))
    if kinds.is_dictionary(kind):
        return _shortest(value, kind.value_type)
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return [_shortest(inner, kind.value_type) for inner in value]
    if kinds.is_struct(kind):
        return {field.name: _shortest(value[field.name], field.type) for field in kind}
    if kinds.is_map(kind):
        return {name: _shortest(inner, kind.item_type) for name, inner in value.items()}
    return value


def _has_floats(kind: Any) -> bool:
    """Return whether a type has floats of 16 or 32 bits somewhere inside."""
    return "float" in str(kind)  # 64 bits are called double; a field of this name costs a look at its values


class _NotJson(Exception):
    """Raised for a value that files of JSON cannot have."""


def _times() -> frozenset[int]:
    """Return the types of columns that may be beyond Python's calendar."""
    from pyarrow import lib

    return frozenset({lib.Type_TIMESTAMP, lib.Type_DATE64, lib.Type_DURATION})


def _plain(value: Any, path: str) -> Any:
    """Return a value as JSON has it.

    Dates, times and UUIDs are texts, decimals numbers, bytes of UTF-8 texts; other bytes stay, as those of pictures.
    path: of the value, for messages. Raises _NotJson.
    """
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta() | UUID():
            return str(value)
        case bytes():
            return value if path.rpartition(".")[2] in _OF_MEDIA else _text_of(value)
        case Decimal():
            return _number(value, path)
        case dict():
            return {str(name): _plain(inner, f"{path}.{name}") for name, inner in value.items()}
        case list():
            return [_plain(inner, path) for inner in value]
    # Values of numpy, in which pyarrow has tensors.
    return _plain(value.tolist(), path) if hasattr(value, "tolist") else value


def _text_of(value: bytes) -> str | bytes:
    """Return a text that a column of bytes has, or the bytes if it is none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _number(value: Decimal, path: str) -> int | float:
    """Return the number that a file of JSON would have. Raises _NotJson."""
    number = int(value) if value == value.to_integral_value() else float(value)
    if Decimal(repr(number)) != value:
        raise _NotJson(f"its field {path[:80]!r} has more digits than numbers keep: write it as a text")
    return number
