"""Links to files."""

from __future__ import annotations

from pydantic import BaseModel, Field


class FileLink(BaseModel):
    """Place of a file."""

    url: str | None = Field(
        description="link that reads the file without credentials, valid for an hour; null on a workstation"
    )
    path: str | None = Field(description="path of the file on a workstation; null on Google Cloud")


class ArtifactLink(FileLink):
    """File of a job's result, and where to read it."""

    name: str = Field(description="path of the file inside the result")
    bytes: int = Field(description="size of the file")
    sha256: str = Field(description="SHA-256 of the file's content, in hexadecimal")


class DatasetFileLink(FileLink):
    """File of a dataset, and where to read it."""

    name: str = Field(description="path of the file inside the dataset")
    bytes: int = Field(description="size of the file")
    sha256: str | None = Field(
        description="SHA-256 of the file's content, in hexadecimal; null for a folder that was not uploaded"
    )
