"""Dataset files: fetched from the data bucket, then read row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemtune.datasets import splits
from gemtune.datasets.splits import BadSplits
from gemtune.errors import ObjectNotFound, StepError, UnsafeName
from gemtune.ports import Objects
from gemtune.untrusted import MAX_BYTES, Unreadable, read_json, read_json_object

# Columns that a row can have. Refusals name a Parquet file's other columns, which are not read: they can be large.
COLUMNS = ("messages", "prompt", "completion", "answer", "chosen", "rejected")
# Bytes of a Parquet column per read. By default pyarrow reads a whole row group, with all its pictures.
READ_BYTES = 1024 * 1024
# Limit of a row's text. A longer line is more often a damaged file than a row, and is refused without parsing it.
MAX_ROW_BYTES = 1024 * 1024
# Limit of a JSONL row that may hold pictures as base64.
MAX_PICTURE_ROW_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Dataset:
    """Local copies of a dataset's splits, `.jsonl` or `.parquet`.

    folder: the dataset's folder in the data bucket.
    """

    train: Path
    eval: Path | None
    folder: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be used, and the reason, in words for its owner."""

    reason: str


Row = tuple[int, dict[str, Any] | Refused]


def find(data: Objects, dataset_id: str, work: Path) -> Dataset:
    """Fetch the files of a dataset into the folder `work`.

    Raises StepError `dataset_not_found`, `bad_dataset`.
    """
    folder = splits.folder_of(dataset_id)
    try:
        metadata = read_json(data.read(f"{folder}/{splits.METADATA}", max_bytes=MAX_BYTES), named=splits.METADATA)
        paths = splits.by_metadata(metadata)
    except ObjectNotFound:
        paths = splits.by_names(_names_in(data, folder))
    except (Unreadable, UnsafeName) as error:
        raise _bad(error.message) from None
    except BadSplits as error:
        raise _bad(str(error)) from None
    train, held_out = splits.train_split(paths), splits.eval_split(paths)
    if train is None:
        message = f"dataset {dataset_id!r} has no train split"
        raise StepError("dataset_not_found", message, hint=f"put train.jsonl into {data.uri(folder)}")
    fetched = _fetch(data, folder, train, work)
    return Dataset(fetched, None if held_out is None else _fetch(data, folder, held_out, work), folder)


def _names_in(data: Objects, folder: str) -> set[str]:
    """Return the names of the files in a folder.

    Raises StepError `bad_dataset` if a link in it leads out of the bucket.
    """
    try:
        return {stat.name.removeprefix(f"{folder}/") for stat in data.list(f"{folder}/")}
    except UnsafeName as error:
        raise _bad(error.message) from None


def _fetch(data: Objects, folder: str, path: str, work: Path) -> Path:
    """Fetch the file of a split. Raises StepError `bad_dataset`."""
    try:
        return data.fetch(splits.object_of(folder, path), work)
    except BadSplits as error:
        raise _bad(str(error)) from None
    except ObjectNotFound:
        raise _bad(f"the dataset's metadata names the file {path[:200]!r}, which does not exist") from None
    except UnsafeName as error:
        raise _bad(f"the dataset's metadata names the file {path[:200]!r}: {error.message}") from None


def rows(path: Path, *, with_pictures: bool = False) -> Iterator[Row]:
    """Yield (number, row) from a `.jsonl` or `.parquet` file.

    Numbers count from 1; a JSONL row has the number of its line. with_pictures: rows may be up to
    MAX_PICTURE_ROW_BYTES long. Raises StepError `bad_dataset`.
    """
    if path.suffix == ".parquet":
        return _parquet_rows(path, batch_size=4 if with_pictures else 64)
    return _jsonl_rows(path, MAX_PICTURE_ROW_BYTES if with_pictures else MAX_ROW_BYTES)


def _jsonl_rows(path: Path, longest: int) -> Iterator[Row]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            if len(line) > longest and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield number, Refused(f"longer than {longest} bytes")
            elif line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> dict[str, Any] | Refused:
    try:
        return read_json_object(line, max_bytes=len(line))
    except Unreadable as error:
        return Refused(error.message.removeprefix("this ").removeprefix("is "))


def _parquet_rows(path: Path, *, batch_size: int) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
            names = file.schema_arrow.names
            unread = dict.fromkeys(name for name in names if name not in COLUMNS)
            number = 0
            for batch in file.iter_batches(batch_size=batch_size, columns=[name for name in names if name in COLUMNS]):
                for index in range(batch.num_rows):
                    number += 1
                    yield number, _parquet_row(batch.slice(index, 1), unread)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _bad(f"{path.name} is not a readable Parquet file: {str(error)[:200]}") from error


def _parquet_row(batch: Any, unread: dict[str, Any]) -> dict[str, Any] | Refused:
    """Return a row as a JSONL file would have it, without null columns.

    unread: the names of the columns that were not read, with None as their values.
    """
    try:
        (row,) = batch.to_pylist() or [{}]  # [] if the file has none of COLUMNS
    except UnicodeDecodeError:  # neither Parquet writers nor pyarrow's reader check strings before
        return Refused("not UTF-8")
    except (ValueError, OverflowError) as error:
        return Refused(f"a value cannot be read: {str(error)[:100]}")
    return {name: value for name, value in row.items() if value is not None} | unread


def _bad(message: str) -> StepError:
    return StepError("bad_dataset", message, hint="correct the dataset's files and submit again")
