"""Source of a dataset: a folder, with the files of its splits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gemtune.datasets.files import hub_dataset, splits
from gemtune.datasets.files.splits import BadSplits, Splits
from gemtune.datasets.uploads.record import DatasetRecord, is_dataset_id, record_name
from gemtune.errors import ObjectNotFound, StepError, UnsafeName
from gemtune.ports import Objects
from gemtune.untrusted import MAX_BYTES, Unreadable, read_json
from trainer.dataset.folders import BucketFolder, Folder
from trainer.dataset.hub_folder import HubFolder
from trainer.dataset.row import bad_dataset, deleted


@dataclass(frozen=True, slots=True)
class Dataset:
    """Dataset in a folder, and the files of its splits."""

    folder: Folder
    splits: Splits

    @contextmanager
    def open(self, path: str, work: Path) -> Iterator[Path]:
        """Yield a local path to read one of the files from.

        A copy is deleted at the end, so that a dataset of many files needs the disk space of one. work: folder for
        copies. Raises StepError `bad_dataset`; and `dataset_not_found` if the file is deleted before it is read.
        """
        local = self.folder.fetch(path, work)
        try:
            yield local
        except StepError:
            if not local.exists():
                raise deleted(f"{path[:200]!r} of {self.folder.place} was deleted while it was read") from None
            raise
        finally:
            if local.is_relative_to(work):
                local.unlink(missing_ok=True)


def find(data: Objects, dataset_id: str, work: Path, *, token: Callable[[], str | None]) -> Dataset:
    """Find the files of a dataset's splits.

    work: folder for downloads. token: returns the job's token for the Hub. Raises StepError `dataset_not_found`,
    `dataset_gated`, `bad_dataset`.
    """
    on_hub = hub_dataset.parse(dataset_id)
    if on_hub is None:
        folder = splits.folder_of(dataset_id)
        files = BucketFolder(data, folder)
        _check_not_deleted(data, dataset_id, files.sizes)
        return in_folder(files, folder, dataset_id)
    other_folder = f"; name a folder of it: {dataset_id}/<folder>"
    return in_folder(HubFolder(on_hub, work, token=token), on_hub.folder, dataset_id, other_folder=other_folder)


def _check_not_deleted(data: Objects, dataset_id: str, files: Collection[str]) -> None:
    """Raise `dataset_not_found` for an uploaded dataset without its files.

    A job may be accepted while its dataset is deleted, and would train on what is left.
    """
    if not is_dataset_id(dataset_id):
        return
    try:
        paths = [file.path for file in DatasetRecord.model_validate_json(data.read(record_name(dataset_id))).files]
    except ObjectNotFound:
        paths = []  # of files that came into the folder in another way, if there are any
    except ValidationError:
        raise bad_dataset(f"the record of dataset {dataset_id!r} cannot be read", hint="upload it again") from None
    missing = [path for path in paths if path not in files]
    if missing or not files:
        lost = f": it has no {splits.in_words(missing)} any more" if files else ""
        raise deleted(f"dataset {dataset_id!r} was deleted{lost}")


def in_folder(folder: Folder, prefix: str, dataset_id: str, *, other_folder: str = "") -> Dataset:
    """Find the files of the splits in a folder.

    prefix: path with which names in metadata.json may begin. dataset_id: its name in messages. other_folder: addition
    to the hint where the files do not tell the splits. Raises StepError `dataset_not_found`, `bad_dataset`.
    """
    try:
        chosen = _splits(folder, prefix)
    except (Unreadable, UnsafeName, ObjectNotFound) as error:
        raise bad_dataset(error.message) from None
    except BadSplits as error:
        raise bad_dataset(str(error), hint=f"{error.hint}{other_folder}") from None
    if not chosen.train:
        message = chosen.why_no_train_split(dataset_id)
        raise StepError("dataset_not_found", message, hint=f"put train.jsonl into {folder.place}")
    return Dataset(folder, chosen)


def _splits(folder: Folder, prefix: str) -> Splits:
    """Return the splits by metadata.json if there is one, or by names.

    Raises Unreadable, UnsafeName, ObjectNotFound, BadSplits.
    """
    paths = folder.sizes.keys()
    if splits.METADATA not in paths:
        return splits.of_files(paths)
    content = folder.read(splits.METADATA, MAX_BYTES)
    return splits.of_metadata(read_json(content, named=splits.METADATA), paths, prefix)
