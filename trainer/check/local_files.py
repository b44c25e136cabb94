"""Datasets in files of this machine that were not uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from gemtune.checks.task import LocalSource
from gemtune.datasets.files.splits import Splits
from gemtune.errors import ObjectNotFound
from gemtune.untrusted import read_file
from trainer.dataset import source
from trainer.dataset.source import Dataset


class LocalFolder:
    """Folder of this machine with the files of a dataset.

    Hidden files are left out, as by an upload.
    """

    revision = None

    def __init__(self, folder: Path):
        self._folder = folder

    @property
    def place(self) -> str:
        """Path of the folder."""
        return str(self._folder)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file."""
        paths = (path for path in sorted(self._folder.rglob("*")) if path.is_file())
        names = {path.relative_to(self._folder): path.stat().st_size for path in paths}
        return {
            name.as_posix(): size
            for name, size in names.items()
            if not any(part.startswith(".") for part in name.parts)
        }

    def fetch(self, path: str, work: Path) -> Path:
        """Return the file itself."""
        return self._folder / path

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the content of a file. Raises ObjectNotFound, Unreadable."""
        if path not in self.sizes:
            raise ObjectNotFound(path)
        return read_file(self._folder / path, named=path, max_bytes=max_bytes)

    def relative(self, path: str) -> str:
        """Return the path, which is relative already."""
        return path


class LocalFiles(LocalFolder):
    """Single files of this machine, by the paths that their owner wrote."""

    def __init__(self, files: list[str]):
        super().__init__(Path())
        self._files = files

    @property
    def place(self) -> str:
        """Path of the first file."""
        return self._files[0]

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file."""
        return {file: Path(file).stat().st_size for file in self._files}


def find(local: LocalSource) -> Dataset:
    """Return the dataset in local files. Raises StepError."""
    path = Path(local.train)
    if path.is_dir():
        return source.in_folder(LocalFolder(path), prefix="", dataset_id=local.train)
    files = [local.train] if local.held_out is None else [local.train, local.held_out]
    return Dataset(LocalFiles(files), Splits(tuple(files[:1]), tuple(files[1:])))
