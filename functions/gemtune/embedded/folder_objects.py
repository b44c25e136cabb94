"""Objects in a folder: one file each, written whole or not at all.

Symbolic links to files and folders are followed as long as they stay in the bucket's folder; any other is refused by
its name. Deleting removes a link, and nothing that it leads to.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gemtune.embedded.disk import make_folder, writing
from gemtune.errors import ObjectExists, ObjectNotFound, UnsafeName
from gemtune.object_name import UNFINISHED, split_name
from gemtune.ports import MAX_READ_BYTES, Buckets, Link, ObjectStat
from gemtune.settings import Settings
from gemtune.untrusted import read_file


@dataclass(frozen=True, slots=True)
class Modes:
    """Permissions of what is written, whatever the umask: those of files, and of folders."""

    file: int
    folder: int


PRIVATE = Modes(0o600, 0o700)
# Results are given to others, containers and model servers among them, that run as somebody else.
READABLE = Modes(0o644, 0o755)

# The folders that a name leads through, without links, from the bucket's own on.
Visited = tuple[Path, ...]


class FolderObjects:
    def __init__(self, root: Path, bucket: str, modes: Modes = PRIVATE):
        self.bucket = bucket
        self.root = root.absolute()
        self._modes = modes
        make_folder(self.root)
        with writing(self.root):
            mode = self.root.stat().st_mode & 0o777
            if mode & modes.folder != modes.folder:  # what is open to more users already, somebody meant to be so
                self.root.chmod(mode | modes.folder)

    def read(self, name: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        path = self._file(name)
        try:
            if path.is_file():  # anything else, a pipe too, is no object
                return read_file(path, named=name, max_bytes=max_bytes)
        except FileNotFoundError:
            pass  # deleted meanwhile
        raise ObjectNotFound(f"there is no {name!r} in {self.bucket}")

    def read_range(self, name: str, start: int, length: int) -> bytes:
        path = self._file(name)
        try:
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(length)
        except FileNotFoundError:
            pass  # deleted meanwhile
        raise ObjectNotFound(f"there is no {name!r} in {self.bucket}")

    def create(self, name: str, content: bytes) -> None:
        with self._unfinished(name) as (unfinished, path):
            _write_through(unfinished, content)
            try:
                os.link(unfinished, path)  # fails when something is there, and is one step, unlike a look and a rename
            except FileExistsError:
                raise ObjectExists(f"there is a {name!r} in {self.bucket} already") from None

    def write(self, name: str, content: bytes) -> None:
        with self._unfinished(name) as (unfinished, path):
            _write_through(unfinished, content)
            unfinished.replace(path)

    def stat(self, name: str) -> ObjectStat | None:
        path = self._file(name)
        return self._stat(path) if path.is_file() else None

    def generation(self, name: str) -> str | None:
        """mtime, size and content hash: tells a rewritten file from one that was only touched or looked at."""
        path = self._file(name)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            there, digest = os.fstat(file.fileno()), hashlib.file_digest(file, "sha256").hexdigest()
        return f"{there.st_mtime_ns}-{there.st_size}-{digest[:16]}"

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        folder, visited = self._followed(split_name(prefix.rpartition("/")[0]) if "/" in prefix else [])
        for path in sorted(self._files(folder, visited, prefix), key=Path.as_posix):
            with suppress(FileNotFoundError):  # deleted while we looked
                yield self._stat(path)

    def delete(self, name: str) -> None:
        *folders, last = split_name(name)
        path = self._followed(folders)[0] / last
        with writing(self.root), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
        for folder in path.parents:  # folders are no objects: an empty one is only left over
            if folder == self.root or folder.parent == self.root:
                return
            try:
                folder.rmdir()
            except OSError:
                return

    def delete_prefix(self, prefix: str) -> None:
        *folders, last = split_name(prefix.rstrip("/"))
        folder = self._followed(folders)[0]
        for path in [folder / last] if prefix.endswith("/") else list(folder.glob(f"{glob.escape(last)}*")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                self.delete(path.relative_to(self.root).as_posix())

    def upload(self, path: Path, name: str) -> None:
        with self._unfinished(name) as (unfinished, final):
            shutil.copyfile(path, unfinished)
            _sync(unfinished)
            unfinished.replace(final)

    def fetch(self, name: str, into: Path) -> Path:
        if self.stat(name) is None:
            raise ObjectNotFound(f"there is no {name!r} in {self.bucket}")
        return self._file(name)

    def fetch_folder(self, prefix: str, into: Path) -> Path:
        prefix = prefix.rstrip("/") + "/"
        folder, visited = self._followed(split_name(prefix.rstrip("/")))
        if not list(self._files(folder, visited, prefix)):  # all of it is looked at: a link may lead out
            raise ObjectNotFound(f"there is no {prefix!r} in {self.bucket}")
        return folder

    def uri(self, name: str) -> str:
        return str(self._file(name.rstrip("/")))

    def link(self, name: str) -> Link:
        return Link(path=self.uri(name))

    def remove_unfinished(self, before: datetime) -> None:
        """Delete what writers that died left behind before this time."""
        for path in (self.root / UNFINISHED).glob("*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before.timestamp():
                    path.unlink()

    @contextmanager
    def _unfinished(self, name: str) -> Iterator[tuple[Path, Path]]:
        """A temporary file beside the final path, both in folders that exist; gone at the end if still there."""
        path = self._file(name)
        with writing(self.root):
            self._make_folder(path.parent)
            waiting = self.root / UNFINISHED
            waiting.mkdir(exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=waiting)
            os.fchmod(handle, self._modes.file)
            os.close(handle)
            try:
                yield Path(unfinished), path
            finally:
                Path(unfinished).unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it that are missing."""
        missing = [folder, *folder.parents]
        missing = missing[: next(index for index, path in enumerate(missing) if path.is_dir())]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            with suppress(FileNotFoundError):  # deleted by another process since
                path.chmod(self._modes.folder)

    def _file(self, name: str) -> Path:
        return self._followed(split_name(name))[0]

    def _followed(self, names: Sequence[str]) -> tuple[Path, Visited]:
        """The path that these names lead to, one below the other, and the folders on the way. Raises UnsafeName."""
        path = self.root
        visited: Visited = (self.root.resolve(),)
        for name in names:
            path = path / name
            visited = (*visited, self._real(path, visited))
        return path, visited

    def _files(self, folder: Path, visited: Visited, prefix: str) -> Iterator[Path]:
        """Every file below a folder whose name begins with `prefix`. Raises UnsafeName."""
        try:
            entries = list(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for path in entries:
            name = path.relative_to(self.root).as_posix()
            if name == UNFINISHED or not (name.startswith(prefix) or prefix.startswith(f"{name}/")):
                continue
            real = self._real(path, visited)
            if path.is_dir():
                yield from self._files(path, (*visited, real), prefix)
            elif path.is_file():
                yield path

    def _real(self, path: Path, visited: Visited) -> Path:
        """Where a path that was reached through these folders really is. Raises UnsafeName for a link that leads out of
        the bucket, or back to a folder on the way."""
        if not path.is_symlink():
            return visited[-1] / path.name
        real = Path(os.path.realpath(path))  # which, unlike `resolve`, lets links go in a circle
        if real.is_relative_to(visited[0]) and real not in visited:
            return real
        name, where = path.relative_to(self.root).as_posix(), "in a circle" if real in visited else "out of its bucket"
        raise UnsafeName(f"the link {name!r} in {self.bucket} leads {where}", hint="put the files themselves there")

    def _stat(self, path: Path) -> ObjectStat:
        there = path.stat()
        return ObjectStat(
            name=path.relative_to(self.root).as_posix(),
            bytes=there.st_size,
            updated_at=datetime.fromtimestamp(there.st_mtime, UTC),
        )


def folder_buckets(settings: Settings) -> Buckets:
    """The four buckets, as folders of GEMTUNE_HOME."""
    return Buckets(
        config=FolderObjects(settings.home / settings.config_bucket, settings.config_bucket),
        data=FolderObjects(settings.home / settings.data_bucket, settings.data_bucket),
        uploads=FolderObjects(settings.home / settings.uploads_bucket, settings.uploads_bucket),
        export=FolderObjects(settings.home / settings.export_bucket, settings.export_bucket, READABLE),
    )


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
