"""Paths of objects in a bucket's folder, with symbolic links.

Links to files and folders are followed if they stay inside the folder; other links raise UnsafeName.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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

    def files(self, folder: Path, visited: Visited, prefix: str) -> Iterator[Path]:
        """Yield the files below a folder whose names begin with `prefix`.

        Names are those of objects, relative to the bucket. `visited` holds the real folders on the way to `folder`.
        Raises UnsafeName for a link that `walk` would refuse.
        """
        try:
            entries = list(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for path in entries:
            name = path.relative_to(self.root).as_posix()
            if name == UNFINISHED or not (name.startswith(prefix) or prefix.startswith(f"{name}/")):
                continue
            real = self.real_path(path, visited)
            if path.is_dir():
                yield from self.files(path, (*visited, real), prefix)
            elif path.is_file():
                yield path

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
