"""Paths of objects in a bucket's folder, with symbolic links.

Links to files and folders are followed if they stay inside the folder; other links raise UnsafeName.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gemtune.errors import UnsafeName
from gemtune.object_name import UNFINISHED

# Real paths of the folders on the way to a file, the bucket's folder first.
Visited = tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class BucketPaths:
    """Paths in the folder of one bucket. root: the folder, absolute."""

    root: Path
    bucket: str

    def path(self, parts: Sequence[str]) -> Path:
        """Return the path of a name's parts. Raises UnsafeName as `walk` does."""
        path = self.root
        for part in parts:
            path = path / part
            if path.is_symlink():
                return self.walk(parts)[0]
        return path

    def walk(self, parts: Sequence[str]) -> tuple[Path, Visited]:
        """Return the path of a name's parts, and the real folders above it.

        Raises UnsafeName if one of the parts is a link that leads out of the bucket or in a circle.
        """
        path = self.root
        visited: Visited = (Path(os.path.realpath(self.root)),)
        for part in parts:
            path = path / part
            visited = (*visited, self.real_path(path, visited))
        return path, visited

    def files(self, folder: Path, visited: Visited, prefix: str, *, after: str = "") -> Iterator[Path]:
        """Yield files below a folder, sorted, whose names begin with `prefix`.

        Names are those of objects, relative to the bucket; only those behind `after` are yielded. `visited` holds the
        real folders on the way to `folder`. A file is looked at when it is asked for. Raises UnsafeName for a link that
        `walk` would refuse.
        """
        place = "" if folder == self.root else f"{folder.relative_to(self.root).as_posix()}/"
        for name in _names_in(folder, place):
            is_folder = name.endswith("/")
            if name.rstrip("/") == UNFINISHED or not (
                name.startswith(prefix) or (is_folder and prefix.startswith(name))
            ):
                continue
            if name <= after and not (is_folder and after.startswith(name)):
                continue
            path = self.root / name
            real = self.real_path(path, visited)
            if is_folder:
                yield from self.files(path, (*visited, real), prefix, after=after)
            elif path.is_file():
                yield path

    def folders(self, parts: Sequence[str], after: str) -> Iterator[str]:
        """Yield the names of the folders in a folder that hold a file.

        parts: of its name. after: a folder there; only those behind it are looked at. A link out of the bucket is no
        folder of it.
        """
        folder, visited = self.walk(parts)
        place = f"{'/'.join(parts)}/"
        for name in _names_in(folder, place):
            if not name.endswith("/") or (after and name <= f"{place}{after}/"):
                continue
            path = self.root / name
            with suppress(UnsafeName):
                within = (*visited, self.real_path(path, visited))
                if next(self.files(path, within, name), None) is not None:
                    yield path.name

    def real_path(self, path: Path, visited: Visited) -> Path:
        """Return the real path of an entry of the folder `visited[-1]`.

        Raises UnsafeName for a link that leads out of the bucket, or back to one of the folders in `visited`.
        """
        if not path.is_symlink():
            return visited[-1] / path.name
        real = Path(os.path.realpath(path))  # unlike `Path.resolve`, it does not fail on a cycle of links
        if real.is_relative_to(visited[0]) and real not in visited:
            return real
        name, target = path.relative_to(self.root).as_posix(), "in a circle" if real in visited else "out of its bucket"
        raise UnsafeName(f"the link {name!r} in {self.bucket} leads {target}", hint="put the files themselves there")


def _names_in(folder: Path, place: str) -> list[str]:
    """Return the names in a folder, those of folders with a slash behind.

    They are sorted as the objects are that they stand for. place: the beginning of each.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(f"{place}{entry.name}/" if _is_folder(entry) else f"{place}{entry.name}" for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one.

    Only a link takes another look at the disk.
    """
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_dir())
