"""Record of an uploaded dataset.

A dataset is immutable: its id is made of the hashes of its files, so that the same files have the same id. Name and
tags are not part of it. The data bucket holds

    datasets/records/<id>.json                                          the record
    datasets/uploading/<id>/begun                                       an empty object, until the upload is complete
    datasets/uploading/<id>/<number of the file>/<number of the part>   a part, until then
    processed_datasets/<id>/<path of the file>                          the files
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

RECORDS = "datasets/records/"
# Unfinished uploads have a folder apart from the records, so that finding old ones takes no look at complete datasets.
UPLOADING = "datasets/uploading/"
# Size of every part but the last one. A Cloud Function takes bodies of up to 32 MiB.
PART_BYTES = 8 * 1024 * 1024
# Sum of the sizes of a dataset's files. The parts of more could not be listed in one answer.
MAX_BYTES = 1024**4
# More digits than a name needs to be unique, few enough to be read in the id of a job.
ID_DIGITS = 16


class DatasetFile(BaseModel):
    """A file of an uploaded dataset."""

    model_config = ConfigDict(extra="allow")  # what a newer version added is written again

    path: str = Field(description="name of the file in the folder of the dataset")
    bytes: int = Field(description="its size")
    sha256: str = Field(description="hash of its content, in hexadecimal digits")

    @property
    def part_sizes(self) -> list[int]:
        """Return the sizes of the parts in which the file is uploaded.

        An empty file has one empty part.
        """
        whole, rest = divmod(self.bytes, PART_BYTES)
        return [PART_BYTES] * whole + ([rest] if rest or not whole else [])


class DatasetRecord(BaseModel):
    """Record of an uploaded dataset.

    ready_at: when its upload was completed; None until then. Fields that a newer version added are kept.
    """

    model_config = ConfigDict(extra="allow")

    dataset_id: str
    name: str
    tags: tuple[str, ...]
    files: tuple[DatasetFile, ...]
    created_at: datetime
    ready_at: datetime | None = None

    @field_validator("files")
    @classmethod
    def _check_sizes(cls, files: tuple[DatasetFile, ...]) -> tuple[DatasetFile, ...]:
        if any(file.bytes < 0 for file in files) or sum(file.bytes for file in files) > MAX_BYTES:
            raise ValueError("these are no sizes of files")
        return files


def dataset_id_of(files: Sequence[DatasetFile]) -> str:
    """Return the id of a dataset with these files.

    On Google Cloud the sweep may delete the folders of datasets whose ids begin so, see terraform/access_buckets.tf.
    """
    content = sorted((file.path, file.bytes, file.sha256) for file in files)
    return f"dataset_{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:ID_DIGITS]}"


def is_dataset_id(name: str) -> bool:
    """Return whether a name can be the id of an uploaded dataset."""
    return re.fullmatch(rf"dataset_[0-9a-f]{{{ID_DIGITS}}}", name, re.ASCII) is not None


def record_name(dataset_id: str) -> str:
    """Return the name of the object with the record of a dataset."""
    return f"{RECORDS}{dataset_id}.json"


def upload_folder(dataset_id: str) -> str:
    """Return the prefix of what an unfinished upload has stored."""
    return f"{UPLOADING}{dataset_id}/"


def begun_name(dataset_id: str) -> str:
    """Return the name of the object that shows an unfinished upload."""
    return f"{upload_folder(dataset_id)}begun"


def parts_folder(dataset_id: str, file: int) -> str:
    """Return the prefix of the parts of a file, by its number from 0."""
    return f"{upload_folder(dataset_id)}{file}/"


def part_name(dataset_id: str, file: int, part: int) -> str:
    """Return the name of the object with one part of a file."""
    return f"{parts_folder(dataset_id, file)}{part:06}"
