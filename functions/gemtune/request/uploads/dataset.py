"""Contract: the request to upload a dataset."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from gemtune.datasets.uploads.record import MAX_BYTES, PART_BYTES
from gemtune.object_name import is_safe
from gemtune.request.contract import Contract
from gemtune.request.parsing import Reading, read_as
from gemtune.request.spec import PRINTABLE

MAX_FILES, MAX_TAGS = 1000, 20
# Parts of a request for links. Each link may take the service a call over the network.
MAX_LINKS = 100
STAND_INS = {"files": [{"path": "absent", "bytes": 0, "sha256": "0" * 64}]}
LINKS_STAND_INS = {"parts": [{"file": 0, "part": 0}]}


class UploadFile(Contract):
    """A file to upload."""

    path: str = Field(
        min_length=1,
        max_length=500,
        description="name of the file in the folder of the dataset, which says what it is: `train.jsonl`, `eval.csv`",
    )
    bytes: int = Field(ge=0, le=MAX_BYTES, description="its size")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="hash of its content, in hexadecimal digits")

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        if not is_safe(path):
            raise ValueError("this is not a valid name of a file")
        return path


class DatasetUpload(Contract):
    """Request to upload a dataset."""

    name: str = Field("unnamed dataset", min_length=1, max_length=200, pattern=PRINTABLE, description="name for people")
    tags: list[Annotated[str, Field(min_length=1, max_length=100, pattern=PRINTABLE)]] = Field(
        [], max_length=MAX_TAGS, description="words to find it by"
    )
    files: list[UploadFile] = Field(min_length=1, max_length=MAX_FILES, description="its files")

    @field_validator("files")
    @classmethod
    def _check_names(cls, files: list[UploadFile]) -> list[UploadFile]:
        if len({file.path for file in files}) < len(files):
            raise ValueError("two files have the same path")
        if sum(file.bytes for file in files) > MAX_BYTES:
            raise ValueError(f"together the files have more than {MAX_BYTES} bytes")
        return files


class PartOfFile(Contract):
    """A part of a file of a dataset, by its numbers."""

    file: int = Field(0, ge=0, lt=MAX_FILES, description="number of the file in `files`, from 0")
    part: int = Field(ge=0, le=MAX_BYTES // PART_BYTES, description="number of the part, from 0")


class PartLinksRequest(Contract):
    """Request for links to send parts of a dataset."""

    parts: list[PartOfFile] = Field(min_length=1, max_length=MAX_LINKS, description="the parts to send next")


def read(document: str | bytes) -> Reading[DatasetUpload]:
    """Parse a request to upload a dataset from JSON."""
    return read_as(DatasetUpload, document, STAND_INS, tokens_exposed=True)


def read_part_links(document: str | bytes) -> Reading[PartLinksRequest]:
    """Parse a request for links to send parts from JSON."""
    return read_as(PartLinksRequest, document, LINKS_STAND_INS, tokens_exposed=True)
