"""Catalogue of datasets: uploaded ones, and folders that people filled."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import groupby, islice

from gemtune.datasets.files.splits import FOLDER, folder_of
from gemtune.datasets.uploads.errors import DatasetIncomplete, DatasetInUse, DatasetNotFound, DatasetUnreadable
from gemtune.datasets.uploads.record import RECORDS, DatasetFile, DatasetRecord, dataset_id_of, is_dataset_id
from gemtune.errors import UnsafeName
from gemtune.ports import JobStore, Objects
from gemtune.services.datasets.upload import WORKERS, UploadDataset

# Files of a folder that a description names. A folder of pictures has more.
SHOWN_FILES = 200


@dataclass(frozen=True, slots=True)
class DatasetDescription:
    """Description of a dataset.

    name, tags, created_at: of an uploaded one. files: all files, or the first SHOWN_FILES of a folder. is_ready:
    whether jobs can use it. uploaded: whether it came through the API.
    """

    dataset_id: str
    name: str | None
    tags: tuple[str, ...]
    files: tuple[DatasetFile, ...]
    created_at: datetime | None
    is_ready: bool
    uploaded: bool


@dataclass(frozen=True, slots=True)
class DatasetCatalogue:
    """Service that lists, describes and deletes datasets."""

    data: Objects
    store: JobStore
    uploads: UploadDataset

    def page(self, *, after: str | None, limit: int) -> tuple[list[DatasetDescription], str | None]:
        """Return a page of datasets in the order of their folders.

        after: id of the last one of the page before. Also returns the last id if there are more.
        """
        ids = list(islice(self._ids_after(after or ""), limit + 1))
        with ThreadPoolExecutor(WORKERS) as pool:  # each record may be a call over the network
            described = list(pool.map(self._listed, ids[:limit]))
        return described, ids[limit - 1] if len(ids) > limit else None

    def describe(self, dataset_id: str) -> DatasetDescription:
        """Describe one dataset.

        Raises DatasetNotFound, DatasetUnreadable.
        """
        try:
            return _describe_record(self.uploads.read(dataset_id))
        except DatasetNotFound:
            files = self._files_of_folder(dataset_id, 0, SHOWN_FILES)
            if not files:
                raise
        return DatasetDescription(dataset_id, None, (), tuple(files), None, is_ready=True, uploaded=False)

    def describe_ready(self, dataset_id: str) -> DatasetDescription:
        """Describe one dataset that jobs can use.

        Raises DatasetNotFound, DatasetUnreadable, DatasetIncomplete.
        """
        description = self.describe(dataset_id)
        if not description.is_ready:
            missing = self.uploads.missing_parts(self.uploads.read(dataset_id))
            raise DatasetIncomplete(dataset_id, sum(map(len, missing.values())))
        return description

    def files(self, dataset_id: str, *, after: int, limit: int) -> tuple[list[DatasetFile], int | None]:
        """Return a page of a dataset's files, in the order of their paths.

        after: number of files on the pages before. Also returns that of the next page if there are more files. Raises
        DatasetNotFound, DatasetUnreadable, DatasetIncomplete.
        """
        description = self.describe_ready(dataset_id)
        if description.uploaded:
            files = sorted(description.files, key=lambda file: file.path)[after : after + limit + 1]
        else:
            files = self._files_of_folder(dataset_id, after, limit + 1)
        return files[:limit], after + limit if len(files) > limit else None

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset and its files.

        Raises DatasetNotFound, DatasetInUse.
        """
        with suppress(DatasetUnreadable):
            self.describe(dataset_id)
        users = [job.job_id for job in self.store.unfinished() if job.processed_dataset_id == dataset_id]
        if users:
            raise DatasetInUse(dataset_id, users)
        self.uploads.remove(dataset_id)

    def _files_of_folder(self, dataset_id: str, start: int, limit: int) -> list[DatasetFile]:
        """Return files of a folder, whose hashes are not known.

        There are none if the id cannot be a folder's name.
        """
        folder = f"{folder_of(dataset_id)}/"
        try:
            stats = list(islice(self.data.list(folder), start, start + limit))
        except UnsafeName:
            return []
        return [DatasetFile(path=stat.name.removeprefix(folder), bytes=stat.bytes, sha256="") for stat in stats]

    def _listed(self, dataset_id: str) -> DatasetDescription:
        """Describe one dataset of a list.

        If its record cannot be read, only its id is known.
        """
        try:
            return self.describe(dataset_id)
        except DatasetUnreadable:
            return DatasetDescription(dataset_id, None, (), (), None, is_ready=False, uploaded=True)

    def _ids_after(self, after: str) -> Iterator[str]:
        """Yield the ids of all datasets behind one; the others are not read.

        A dataset has a record, a folder, or both.
        """
        folders = self.data.folders(f"{FOLDER}/", after=after)
        for dataset_id, _ in groupby(merge(self._uploaded_ids(after), folders, key=_place_in_order)):
            yield dataset_id

    def _uploaded_ids(self, after: str) -> Iterator[str]:
        """Yield the ids of uploaded datasets behind an id."""
        # All ids are equally long, so that each record behind `after` is behind this beginning of it, too.
        beginning = after[: len(dataset_id_of(()))]
        for stat in self.data.list(RECORDS, after=f"{RECORDS}{beginning}" if after else ""):
            dataset_id = stat.name.removeprefix(RECORDS).removesuffix(".json")
            if is_dataset_id(dataset_id) and _place_in_order(dataset_id) > _place_in_order(after):
                yield dataset_id


def _place_in_order(dataset_id: str) -> str:
    """Return what to sort a dataset by: the name of its folder in a bucket."""
    return f"{dataset_id}/"


def object_name(dataset_id: str, file: DatasetFile) -> str:
    """Return the name of the object that is a file of a complete dataset."""
    return f"{folder_of(dataset_id)}/{file.path}"


def _describe_record(record: DatasetRecord) -> DatasetDescription:
    return DatasetDescription(
        record.dataset_id,
        record.name,
        record.tags,
        record.files,
        record.created_at,
        is_ready=record.ready_at is not None,
        uploaded=True,
    )
