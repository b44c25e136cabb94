"""Folders with the files of a dataset: in the data bucket, or on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

from gemtune.errors import ObjectNotFound, UnsafeName
from gemtune.ports import Objects
from trainer.dataset.row import bad_dataset, deleted


class Folder(Protocol):
    """Files of a dataset, by their paths relative to its folder.

    place: where they are or belong, for users. revision: commit of the files on the Hub, or None.
    """

    @property
    def place(self) -> str: ...

    @property
    def revision(self) -> str | None: ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file. Raises StepError `bad_dataset`."""
        ...

    def fetch(self, path: str, work: Path) -> Path:
        """Return a local path to read a file from.

        It is the file itself, or a copy below `work`. Raises StepError `bad_dataset`, `dataset_not_found`.
        """
        ...

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the content of a file that `sizes` has.

        Raises ObjectNotFound, UnsafeName, Unreadable, StepError.
        """
        ...

    def relative(self, path: str) -> str:
        """Return a path as `sizes` has it; rows may name it otherwise."""
        ...


class BucketFolder:
    """Folder of the data bucket, for which objects are listed once."""

    revision = None

    def __init__(self, data: Objects, folder: str):
        self._data, self._folder = data, folder

    @property
    def place(self) -> str:
        """URI of the folder."""
        return self._data.uri(self._folder)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file. Raises StepError `bad_dataset`."""
        try:
            return {self.relative(stat.name): stat.bytes for stat in self._data.list(f"{self._folder}/")}
        except UnsafeName as error:  # a link that leads out
            raise bad_dataset(error.message, hint=error.hint or "put the files themselves there") from error

    def fetch(self, path: str, work: Path) -> Path:
        """Return the object's own file, or a copy. Raises StepError."""
        try:
            return self._data.fetch(f"{self._folder}/{path}", work)
        except ObjectNotFound:
            raise deleted(f"{path[:200]!r} of {self.place} was deleted before it was read") from None
        except UnsafeName as error:
            raise bad_dataset(f"the dataset's file {path[:200]!r}: {error.message}") from None

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the content of an object."""
        return self._data.read(f"{self._folder}/{path}", max_bytes=max_bytes)

    def relative(self, path: str) -> str:
        """Return a path without the folder, with which it may begin."""
        return path.removeprefix(f"{self._folder}/")
