"""Upload of a dataset, in parts that can be sent in any order, and again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from gemtune.datasets.files.splits import folder_of
from gemtune.datasets.uploads.errors import (
    BadPart,
    ChecksumMismatch,
    DatasetIncomplete,
    DatasetNotFound,
    DatasetUnreadable,
)
from gemtune.datasets.uploads.record import (
    UPLOADING,
    DatasetFile,
    DatasetRecord,
    begun_name,
    dataset_id_of,
    is_dataset_id,
    part_name,
    parts_folder,
    record_name,
    upload_folder,
)
from gemtune.errors import ObjectNotFound
from gemtune.ports import Clock, Objects, UploadLink
from gemtune.request.uploads.dataset import DatasetUpload, PartOfFile, UploadFile

# Files that are put together at the same time, and links that are signed: both may wait for the network.
WORKERS = 8
# Times that a dataset is removed at most, if its upload is completed meanwhile.
REMOVALS = 3


@dataclass(frozen=True, slots=True)
class UploadDataset:
    """Service that takes the parts of a dataset and puts them together."""

    data: Objects
    clock: Clock

    def begin(self, upload: DatasetUpload) -> DatasetRecord:
        """Create the record of a dataset, or return that of the same files.

        A repeated upload changes name and tags only. The same files may be completed or deleted for somebody else at
        this moment: then the object that begins an upload is gone, after it was written here, and the files tell
        whether the dataset is complete.
        """
        files = tuple(DatasetFile(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in upload.files)
        dataset_id = dataset_id_of(files)
        stored = self._find(dataset_id)
        if stored is None or stored.ready_at is None:
            self.data.write(begun_name(dataset_id), b"")
            stored = self._find(dataset_id)  # it may have been completed before this object was there
        described = {"name": upload.name, "tags": tuple(upload.tags)}
        if stored is None:
            record = DatasetRecord(dataset_id=dataset_id, files=files, created_at=self.clock.now(), **described)
        else:
            record = stored.model_copy(update=described)
        if record == stored:
            return record
        self._write(record)
        if record.ready_at is None and self.data.stat(begun_name(dataset_id)) is not None:
            return record
        if self._is_whole(record):
            return record if record.ready_at is not None else self._mark_ready(record)
        self.data.write(begun_name(dataset_id), b"")
        record = record.model_copy(update={"ready_at": None})
        self._write(record)
        return record

    def read(self, dataset_id: str) -> DatasetRecord:
        """Return the record of a dataset.

        Raises DatasetNotFound, DatasetUnreadable.
        """
        return read_record(self.data, dataset_id)

    def store_part(self, dataset_id: str, file: int, part: int, content: bytes) -> DatasetRecord:
        """Store one part of a file. A part of a complete dataset is ignored.

        file, part: their numbers, from 0. Raises DatasetNotFound, BadPart.
        """
        record = self.read(dataset_id)
        size = _size_of(record, file, part)
        if len(content) != size:
            raise BadPart(f"part {part} of file {file} has {len(content)} bytes instead of {size}")
        if record.ready_at is None:
            self.data.write(part_name(dataset_id, file, part), content)
        return record

    def store_file(self, path: str, content: bytes, *, name: str | None) -> DatasetRecord:
        """Store one file of at most one part as a complete dataset.

        name: for people; None for that of every upload without one. Raises DatasetUnreadable.
        """
        file = UploadFile(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        upload = DatasetUpload(files=[file]) if name is None else DatasetUpload(files=[file], name=name)
        record = self.begin(upload)
        if record.ready_at is None:
            self.store_part(record.dataset_id, 0, 0, content)
            record = self.complete(record.dataset_id)
        return record

    def links(self, dataset_id: str, parts: Sequence[PartOfFile]) -> list[UploadLink]:
        """Return a link for each part, to send it to the bucket.

        There are none for a complete dataset, which needs no parts. Raises DatasetNotFound, BadPart, NoSignedLinks.
        """
        record = self.read(dataset_id)
        sizes = [_size_of(record, part.file, part.part) for part in parts]
        if record.ready_at is not None:
            return []
        names = [part_name(dataset_id, part.file, part.part) for part in parts]
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(self.data.upload_link, names, sizes))

    def complete(self, dataset_id: str) -> DatasetRecord:
        """Put the parts together, and make the dataset usable.

        Another call may complete the same dataset at the same time, and delete its parts. Raises DatasetNotFound, also
        if it is deleted meanwhile; DatasetIncomplete; ChecksumMismatch, and then drops the parts of the file.
        """
        record = self._require_parts(dataset_id)
        was_ready = record.ready_at is not None
        if not was_ready:
            try:
                with ThreadPoolExecutor(WORKERS) as pool:
                    list(pool.map(lambda number: self._put_together(record, number), range(len(record.files))))
            except ObjectNotFound:
                record = self._require_parts(dataset_id)
                if record.ready_at is None:
                    raise
            else:
                record = self._mark_ready(record)
        self.data.delete_prefix(upload_folder(dataset_id))  # also of a link that was used late
        newest = self.read(dataset_id)  # an announcement that has read the record before may have written it since
        ready = newest if newest.ready_at is not None else self._mark_ready(newest)
        if not was_ready and not self._is_whole(ready):
            self.remove(dataset_id)
            raise DatasetNotFound(dataset_id)
        return ready

    def remove(self, dataset_id: str) -> None:
        """Remove the files of a dataset, its parts and its record.

        Files that were put together meanwhile have lost their record, and are removed as well.
        """
        folder = f"{folder_of(dataset_id)}/"
        for _ in range(REMOVALS):
            self.data.delete_prefix(folder)
            self.data.delete_prefix(upload_folder(dataset_id))
            self.data.delete(record_name(dataset_id))
            if next(iter(self.data.list(folder)), None) is None:
                return

    def missing_parts(self, record: DatasetRecord) -> Mapping[int, list[int]]:
        """Return the numbers of the parts that are not there, for each file."""
        if record.ready_at is not None:
            return {}
        stored = {stat.name: stat.bytes for stat in self.data.list(upload_folder(record.dataset_id))}
        return {
            number: [
                part
                for part, size in enumerate(file.part_sizes)
                if stored.get(part_name(record.dataset_id, number, part)) != size
            ]
            for number, file in enumerate(record.files)
        }

    def in_progress(self) -> Iterator[str]:
        """Yield the ids of datasets of which there are parts."""
        yield from self.data.folders(UPLOADING)

    def remove_abandoned(self, dataset_id: str, before: datetime) -> None:
        """Remove an upload to which nothing was added since a time.

        Also removes files that were put together before the upload failed, since their folder would be a dataset; and
        the parts of a complete dataset, which remain if the process ended while it deleted them. Raises
        DatasetUnreadable.
        """
        folder = upload_folder(dataset_id)
        if any(stat.updated_at >= before for stat in self.data.list(folder)):
            return
        with suppress(DatasetNotFound):
            if self.read(dataset_id).ready_at is None:
                self.remove(dataset_id)
        self.data.delete_prefix(folder)

    def _require_parts(self, dataset_id: str) -> DatasetRecord:
        """Return the record of a dataset of which all parts are there.

        Raises DatasetNotFound, DatasetIncomplete.
        """
        record = self.read(dataset_id)
        missing = self.missing_parts(record)
        if any(missing.values()):
            record = self.read(dataset_id)  # it may have been completed, and its parts deleted, since it was read
            if record.ready_at is None:
                raise DatasetIncomplete(dataset_id, sum(map(len, missing.values())))
        return record

    def _put_together(self, record: DatasetRecord, number: int) -> None:
        """Join the parts of a file, whose content must have its hash.

        Raises ChecksumMismatch, ObjectNotFound.
        """
        file = record.files[number]
        names = [part_name(record.dataset_id, number, part) for part in range(len(file.part_sizes))]
        if not self.data.join_checked(names, f"{folder_of(record.dataset_id)}/{file.path}", file.sha256):
            self.data.delete_prefix(parts_folder(record.dataset_id, number))
            raise ChecksumMismatch(file.path)

    def _is_whole(self, record: DatasetRecord) -> bool:
        """Return whether all files of a dataset are in their place."""
        folder = f"{folder_of(record.dataset_id)}/"
        stored = {stat.name.removeprefix(folder) for stat in self.data.list(folder)}
        return all(file.path in stored for file in record.files)

    def _find(self, dataset_id: str) -> DatasetRecord | None:
        try:
            return self.read(dataset_id)
        except DatasetNotFound:
            return None

    def _mark_ready(self, record: DatasetRecord) -> DatasetRecord:
        ready = record.model_copy(update={"ready_at": self.clock.now()})
        self._write(ready)
        return ready

    def _write(self, record: DatasetRecord) -> None:
        self.data.write(record_name(record.dataset_id), record.model_dump_json().encode())


def _size_of(record: DatasetRecord, file: int, part: int) -> int:
    """Return the size of a part of a file. Raises BadPart."""
    sizes = record.files[file].part_sizes if file < len(record.files) else []
    if part >= len(sizes):
        raise BadPart(f"file {file} of {record.dataset_id!r} has no part {part}")
    return sizes[part]


def read_record(data: Objects, dataset_id: str) -> DatasetRecord:
    """Return the record of a dataset.

    Raises DatasetNotFound, DatasetUnreadable.
    """
    try:
        return DatasetRecord.model_validate_json(data.read(record_name(dataset_id)))
    except ObjectNotFound:
        raise DatasetNotFound(dataset_id) from None
    except ValidationError:
        raise DatasetUnreadable(dataset_id) from None


def why_unusable(data: Objects, dataset_id: str) -> tuple[str, str] | None:
    """Return why no job can use an uploaded dataset, and what to do.

    Some files of an incomplete one may be in their place already. None if jobs can use it, or if it was not uploaded.
    """
    if not is_dataset_id(dataset_id):
        return None
    try:
        record = read_record(data, dataset_id)
    except DatasetNotFound:
        return None
    except DatasetUnreadable as error:
        return error.message, error.hint or ""
    if record.ready_at is not None:
        return None
    hint = "upload it again, which goes on where the upload ended; or wait until another upload of it is over"
    return f"the upload of dataset {dataset_id!r} is not complete", hint
