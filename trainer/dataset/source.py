"""Source of a dataset: a folder, with the files of its splits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gemtune.datasets import splits
from gemtune.datasets.splits import BadSplits, Splits
from gemtune.errors import ObjectNotFound, StepError, UnsafeName
from gemtune.ports import Objects
from gemtune.untrusted import MAX_BYTES, Unreadable, read_json
from trainer.dataset.row import bad_dataset


@dataclass(frozen=True, slots=True)
class Dataset:
    """Dataset in a folder of the data bucket, and the files of its splits.

    folder: its name in the bucket.
    """

    data: Objects
    folder: str
    splits: Splits

    @contextmanager
    def open(self, path: str, work: Path) -> Iterator[Path]:
        """Yield a local path to read one of the files from.

        A copy is deleted at the end, so that a dataset of many files needs the disk space of one. work: folder for
        copies. Raises StepError `bad_dataset`.
        """
        try:
            local = self.data.fetch(f"{self.folder}/{path}", work)
        except ObjectNotFound:
            raise bad_dataset(f"the dataset's file {path[:200]!r} does not exist any more") from None
        except UnsafeName as error:
            raise bad_dataset(f"the dataset's file {path[:200]!r}: {error.message}") from None
        try:
            yield local
        finally:
            if local.is_relative_to(work):
                local.unlink(missing_ok=True)


def find(data: Objects, dataset_id: str) -> Dataset:
    """Find the files of a dataset's splits.

    Raises StepError `dataset_not_found`, `bad_dataset`.
    """
    folder = splits.folder_of(dataset_id)
    try:
        paths = {stat.name.removeprefix(f"{folder}/") for stat in data.list(f"{folder}/")}
        chosen = _splits(data, folder, paths)
    except (Unreadable, UnsafeName) as error:
        raise bad_dataset(error.message) from None
    except BadSplits as error:
        raise bad_dataset(str(error), hint=error.hint) from None
    if not chosen.train:
        message = chosen.why_no_train_split(dataset_id)
        raise StepError("dataset_not_found", message, hint=f"put train.jsonl into {data.uri(folder)}")
    return Dataset(data, folder, chosen)


def _splits(data: Objects, folder: str, paths: set[str]) -> Splits:
    """Return the splits by metadata.json if there is one, or by names.

    Raises Unreadable, UnsafeName, BadSplits.
    """
    if splits.METADATA not in paths:
        return splits.of_files(paths)
    content = data.read(f"{folder}/{splits.METADATA}", max_bytes=MAX_BYTES)
    return splits.of_metadata(read_json(content, named=splits.METADATA), paths, folder)
