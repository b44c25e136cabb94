"""A folder of this machine with rows and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from gemtune.errors import ObjectNotFound
from gemtune.untrusted import read_file


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
