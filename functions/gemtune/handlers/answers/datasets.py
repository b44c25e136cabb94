"""Answers about datasets and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from gemtune.checks.report import CheckError, CheckReport
from gemtune.checks.row import CheckedRow
from gemtune.datasets.uploads.record import PART_BYTES, DatasetFile
from gemtune.handlers.answers.files import DatasetFileLink, FileLink
from gemtune.services.datasets.catalogue import DatasetDescription
from gemtune.services.datasets.check import CheckState


class Dataset(BaseModel):
    """A dataset: uploaded, or a folder of the data bucket."""

    dataset_id: str = Field(description="its id, for `processed_dataset_id`")
    name: str | None = Field(description="name for people; null for a folder that was not uploaded")
    tags: Sequence[str] = Field(description="words to find it by")
    files: Sequence[DatasetFile] = Field(description="its files; of a folder that was not uploaded, the first 200")
    created_at: datetime | None = Field(description="when its upload began; null for a folder that was not uploaded")
    status: Literal["uploading", "ready"] = Field(description="`ready`: jobs can use it")
    part_bytes: int = Field(PART_BYTES, description="size of every part of an upload but the last of a file")
    missing_parts: Mapping[int, Sequence[int]] = Field(
        description="numbers of the parts that are still to be sent, for each file by its number in `files`; empty "
        "when it is ready, and in lists"
    )
    part_links: bool = Field(
        False,
        description="whether parts can be sent to the storage itself, by links of POST "
        "/datasets/{dataset_id}/part-links; false on a workstation",
    )

    @classmethod
    def of(cls, description: DatasetDescription, missing: Mapping[int, Sequence[int]], *, part_links: bool) -> Dataset:
        """Describe a dataset. part_links: of the bucket with its parts."""
        return cls(
            dataset_id=description.dataset_id,
            name=description.name,
            tags=description.tags,
            files=description.files,
            created_at=description.created_at,
            status="ready" if description.is_ready else "uploading",
            part_bytes=PART_BYTES,
            missing_parts=missing,
            part_links=part_links,
        )


class DatasetList(BaseModel):
    """One page of datasets."""

    datasets: Sequence[Dataset] = Field(
        description="datasets in the order of their ids, but `a-b` before `a`, as buckets order folders"
    )
    next_after: str | None = Field(description="`after` for the next page; null on the last one")


class DatasetFiles(BaseModel):
    """One page of the files of a dataset."""

    files: Sequence[DatasetFileLink] = Field(description="files in the order of their names")
    next_after: int | None = Field(description="`after` for the next page; null on the last one")


class PartStored(BaseModel):
    """Answer to a part of an upload."""

    file: int = Field(description="number of the file")
    part: int = Field(description="number of the part that is stored")


class PartLink(BaseModel):
    """Link that takes one part of an upload."""

    file: int = Field(description="number of the file")
    part: int = Field(description="number of the part")
    url: str = Field(
        repr=False,
        description="where to PUT the part, for an hour and without credentials: whoever has the link can do so",
    )
    headers: Mapping[str, str] = Field(description="headers to send with it; without them the storage refuses the part")


class PartLinks(BaseModel):
    """Links that take parts of an upload."""

    links: Sequence[PartLink] = Field(
        description="a link for each part, in the order of the request; none if the dataset is complete by now"
    )


class DatasetCheck(BaseModel):
    """A check of a dataset."""

    check_id: str = Field(description="its id")
    dataset_id: str = Field(description="id of the dataset")
    status: Literal["running", "done", "failed"] = Field(
        description="`done`: the report is there, also if the dataset cannot be trained on; `failed`: the check itself "
        "crashed"
    )
    created_at: datetime = Field(description="when it began")
    report: CheckReport | None = Field(description="what a training would make of the dataset; null until it is done")
    error: CheckError | None = Field(description="why the check failed; null otherwise")
    rows_left_out: FileLink | None = Field(
        description="file of JSON lines that names every row that is not used, with the reason; null until it is there"
    )

    @classmethod
    def of(cls, state: CheckState) -> DatasetCheck:
        """Describe the state of a check."""
        link = state.rows_left_out
        return cls(
            check_id=state.record.check_id,
            dataset_id=state.record.dataset_id,
            status=state.status,
            created_at=state.record.created_at,
            report=state.report,
            error=state.error,
            rows_left_out=None if link is None else FileLink(url=link.url, path=link.path),
        )


class DatasetRows(BaseModel):
    """One page of a dataset's rows."""

    rows: Sequence[CheckedRow] = Field(description="rows in the order of their files; a page may have none")
    next_after: str | None = Field(description="`after` for the next page; null on the last one")


class DatasetDeleted(BaseModel):
    """Answer to the deletion of a dataset."""

    dataset_id: str = Field(description="id of the deleted dataset")
    deleted: Literal[True] = Field(True, description="always true")
