"""Facts about a dataset: whether it exists, and which columns its rows have."""

from __future__ import annotations

from gemtune.datasets import columns, splits
from gemtune.datasets.splits import BadSplits
from gemtune.errors import ObjectNotFound, Problem, UnsafeName
from gemtune.ports import Objects, ObjectStat
from gemtune.request.facts import DatasetFiles
from gemtune.untrusted import MAX_BYTES, Unreadable, read_json

# Bytes at the beginning of a JSONL file in which its first row is searched: the largest size of a row.
FIRST_ROW_BYTES = MAX_BYTES


def describe_dataset(data: Objects, dataset_id: str, *, with_columns: bool) -> DatasetFiles:
    """Describe a dataset of the data bucket.

    with_columns: also find the columns of its rows, for which a few more bytes are read.
    """
    folder = splits.folder_of(dataset_id)
    try:
        if with_columns:
            return _with_columns(data, folder)
        names = (splits.METADATA, *splits.TRAIN_FILES)
        exists = any(data.stat(f"{folder}/{name}") is not None for name in names)
        return DatasetFiles(data.uri(folder), exists)
    except UnsafeName as error:  # e.g. a symbolic link
        problem = Problem(("processed_dataset_id",), error.message, "bad_dataset", error.hint)
        return DatasetFiles(folder, exists=False, problem=problem)


def _with_columns(data: Objects, folder: str) -> DatasetFiles:
    """Describe a dataset with its columns.

    They are None where they cannot be found out easily.
    """
    place = data.uri(folder)
    try:
        metadata = read_json(data.read(f"{folder}/{splits.METADATA}", max_bytes=MAX_BYTES))
    except ObjectNotFound:
        stats = (data.stat(f"{folder}/{name}") for name in splits.TRAIN_FILES)
        train = next((stat for stat in stats if stat is not None), None)
        return DatasetFiles(place, train is not None, columns=_columns(data, train))
    except Unreadable:  # the prepare step reports what is wrong with it
        return DatasetFiles(place, exists=True)
    return DatasetFiles(place, exists=True, columns=_columns(data, _train_file(data, folder, metadata)))


def _train_file(data: Objects, folder: str, metadata: object) -> ObjectStat | None:
    """Return the file of the train split that the metadata names.

    None if there is none: the prepare step reports what is wrong.
    """
    try:
        path = splits.train_split(splits.by_metadata(metadata))
        return None if path is None else data.stat(splits.object_of(folder, path))
    except (BadSplits, UnsafeName):
        return None


def _columns(data: Objects, file: ObjectStat | None) -> frozenset[str] | None:
    """Return the columns of a file; None if a few bytes do not tell them."""
    if file is None:
        return None
    try:
        if file.name.endswith(".jsonl"):
            return columns.of_jsonl(data.read_range(file.name, 0, FIRST_ROW_BYTES))
        return columns.of_parquet(file.bytes, lambda start, length: data.read_range(file.name, start, length))
    except ObjectNotFound:  # deleted in the meantime
        return None
