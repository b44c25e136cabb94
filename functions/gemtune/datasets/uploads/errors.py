"""Errors of uploads and of datasets as things."""

from __future__ import annotations

from collections.abc import Sequence

from gemtune.errors import Conflict, NotFound


class DatasetNotFound(NotFound):
    """Raised when there is no such dataset."""

    code = "no_such_dataset"

    def __init__(self, dataset_id: str):
        super().__init__(f"there is no dataset {dataset_id!r}", hint="list the datasets with GET /datasets")


class DatasetUnreadable(Conflict):
    """Raised when the record of a dataset is damaged or from another version."""

    code = "dataset_unreadable"

    def __init__(self, dataset_id: str):
        super().__init__(
            f"the record of dataset {dataset_id!r} cannot be read by this version",
            hint=f"run the version that wrote it; or DELETE /datasets/{dataset_id}, and upload it again",
        )


class DatasetIncomplete(Conflict):
    """Raised when an upload is completed before all of its parts are there."""

    code = "dataset_incomplete"

    def __init__(self, dataset_id: str, missing: int):
        hint = f"GET /datasets/{dataset_id} names them: send them, and complete it again"
        parts = "1 part" if missing == 1 else f"{missing} parts"
        super().__init__(f"{parts} of {dataset_id!r} {'is' if missing == 1 else 'are'} missing", hint=hint)


class ChecksumMismatch(Conflict):
    """Raised when the content of an uploaded file has another hash."""

    code = "checksum_mismatch"

    def __init__(self, path: str):
        hint = "the file changed during the upload, or was damaged on the way: send its parts again"
        super().__init__(f"the uploaded parts of {path!r} do not have the hash that was announced", hint=hint)


class BadPart(Conflict):
    """Raised for a part of an upload that does not belong there."""

    code = "bad_part"

    def __init__(self, message: str):
        super().__init__(message, hint="cut files into parts of 8 MiB, counted from 0; only the last one is smaller")


class DatasetInUse(Conflict):
    """Raised on an attempt to delete a dataset that unfinished jobs need."""

    code = "dataset_in_use"

    def __init__(self, dataset_id: str, job_ids: Sequence[str]):
        hint = f"wait until they are over, or cancel them: POST /jobs/{job_ids[0]}/cancel"
        super().__init__(f"{dataset_id!r} is used by {', '.join(job_ids[:5])}", hint=hint)
