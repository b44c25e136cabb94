"""Facts about a dataset: whether it exists, and which columns its rows have."""

from __future__ import annotations

from gemtune.datasets.files import columns, hub_dataset, splits, text_columns
from gemtune.datasets.files.kinds import kind_of
from gemtune.datasets.files.splits import BadSplits, Splits
from gemtune.errors import ObjectNotFound, Problem, UnsafeName
from gemtune.ports import Objects
from gemtune.request.facts import DatasetFiles
from gemtune.services.datasets.listing import list_sizes, read_splits
from gemtune.services.datasets.upload import why_unusable
from gemtune.untrusted import MAX_BYTES, Unreadable

FIELD = ("processed_dataset_id",)
# Bytes at the beginning of a file of text in which its first row is searched: the largest size of a row.
FIRST_ROW_BYTES = MAX_BYTES


def describe_dataset(data: Objects, dataset_id: str, *, with_columns: bool) -> DatasetFiles:
    """Describe a dataset of the data bucket; one of the Hub exists.

    with_columns: also find the columns of its rows, for which a few more bytes are read. They are None where these
    bytes do not tell them.
    """
    if hub_dataset.parse(dataset_id) is not None:  # the prepare step asks the Hub, with the job's token
        return DatasetFiles(dataset_id, exists=True)
    folder = splits.folder_of(dataset_id)
    try:
        place = data.uri(folder)
        fault = why_unusable(data, dataset_id)
        if fault is not None:
            message, hint = fault
            return DatasetFiles(place, exists=False, problem=Problem(FIELD, message, "dataset_not_ready", hint))
        sizes = list_sizes(data, folder)
        if sizes is None:
            return DatasetFiles(place, exists=True)
        named = read_splits(data, folder, sizes)
        if not named.train:
            problem = None if not sizes else _no_train_split(dataset_id, named, place)
            return DatasetFiles(place, exists=False, problem=problem)
        first = named.train[0]
        names = _columns(data, f"{folder}/{first}", sizes[first]) if with_columns else None
        files = tuple((f"{folder}/{path}", sizes[path]) for path in named.train)
        return DatasetFiles(place, exists=True, columns=names, train_files=files)
    except (UnsafeName, Unreadable) as error:  # e.g. a symbolic link
        return _refused(folder, error.message, error.hint)
    except BadSplits as error:
        return _refused(folder, str(error), error.hint)


def _refused(folder: str, message: str, hint: str | None) -> DatasetFiles:
    return DatasetFiles(folder, exists=False, problem=Problem(FIELD, message, "bad_dataset", hint))


def _no_train_split(dataset_id: str, named: Splits, place: str) -> Problem:
    hint = f"put train.jsonl into {place}, or name one of these files so"
    return Problem(FIELD, named.why_no_train_split(dataset_id), "dataset_not_found", hint)


def _columns(data: Objects, file: str, size: int) -> frozenset[str] | None:
    """Return the columns of a file; None if a few bytes do not tell them."""
    kind = kind_of(file)
    try:
        if kind is None or kind.layout == "parquet":
            return columns.of_parquet(size, lambda start, length: data.read_range(file, start, length))
        return text_columns.of_text(kind, data.read_range(file, 0, FIRST_ROW_BYTES))
    except ObjectNotFound:  # deleted in the meantime
        return None
