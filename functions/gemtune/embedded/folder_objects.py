"""Objects as files in a folder, written atomically.

Symbolic links to files and folders are followed if they stay inside the bucket's folder; other links raise UnsafeName.
Deleting a link removes the link, not its target.
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
from typing import Literal

from gemtune.embedded.bucket_paths import BucketPaths
from gemtune.embedded.disk import flush, make_folder, write_through, writing
from gemtune.errors import NoSignedLinks, ObjectExists, ObjectNotFound
from gemtune.object_name import UNFINISHED, split_name
from gemtune.ports import MAX_READ_BYTES, Buckets, Link, ObjectStat, UploadLink
from gemtune.settings import Settings
from gemtune.untrusted import read_file

BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Modes:
    """Permissions of new files and folders, independent of the umask."""

    file: int
    folder: int


PRIVATE = Modes(0o600, 0o700)
# Containers and model servers that read the results often run as another user.
READABLE = Modes(0o644, 0o755)


class FolderObjects:
    """`ports.Objects` in one folder, one file per object."""

    digest_algorithm: Literal["sha256", "crc32c"] = "sha256"
    has_upload_links = False

    def __init__(self, root: Path, bucket: str, modes: Modes = PRIVATE):
        """Create the folder if needed; `modes` are for new files and folders."""
        self.bucket = bucket
        self.root = root.absolute()
        self._paths = BucketPaths(self.root, bucket)
        self._modes = modes
        make_folder(self.root)
        with writing(self.root):
            mode = self.root.stat().st_mode & 0o777
            if mode & modes.folder != modes.folder:  # only add permissions: wider ones were set on purpose
                self.root.chmod(mode | modes.folder)

    def read(self, name: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return a file's content. Raises ObjectNotFound, Unreadable."""
        path = self._file(name)
        try:
            if path.is_file():  # anything else, such as a pipe, is not an object
                return read_file(path, named=name, max_bytes=max_bytes)
        except FileNotFoundError:
            pass  # deleted since the check
        raise ObjectNotFound(f"there is no {name!r} in {self.bucket}")

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes of a file from offset `start`."""
        path = self._file(name)
        try:
            if path.is_file():
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(length)
        except FileNotFoundError:
            pass  # deleted since the check
        raise ObjectNotFound(f"there is no {name!r} in {self.bucket}")

    def create(self, name: str, content: bytes) -> None:
        """Write a complete file, then link it to its name."""
        with self._unfinished(name, content) as (unfinished, path):
            try:
                os.link(unfinished, path)  # atomic: fails if the name exists
            except FileExistsError:
                raise ObjectExists(f"there is a {name!r} in {self.bucket} already") from None

    def write(self, name: str, content: bytes) -> None:
        """Write a temporary file, and rename it to the object's path."""
        with self._unfinished(name, content) as (unfinished, path):
            unfinished.replace(path)

    def stat(self, name: str) -> ObjectStat | None:
        """Return a file's size and modification time, or None."""
        path = self._file(name)
        return self._stat(path) if path.is_file() else None

    def generation(self, name: str) -> str | None:
        """Return modification time, size and content hash as one string.

        The hash notices a rewrite that changes neither time nor size.
        """
        path = self._file(name)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            stat, digest = os.fstat(file.fileno()), hashlib.file_digest(file, "sha256").hexdigest()
        return f"{stat.st_mtime_ns}-{stat.st_size}-{digest[:16]}"

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file. Raises ObjectNotFound."""
        path = self._file(name)
        if not path.is_file():
            raise ObjectNotFound(f"there is no {name!r} in {self.bucket}")
        with path.open("rb") as file:
            return f"{self.digest_algorithm}:{hashlib.file_digest(file, self.digest_algorithm).hexdigest()}"

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Yield the objects whose names begin with `prefix`, by name."""
        folder, visited = self._paths.walk(split_name(prefix.rpartition("/")[0]) if "/" in prefix else [])
        for path in self._paths.files(folder, visited, prefix, after=after):
            with suppress(FileNotFoundError):  # deleted since it was listed
                yield self._stat(path)

    def folders(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Return the names of the folders in a folder that hold a file."""
        return self._paths.folders(split_name(prefix.rstrip("/")), after)

    def join(self, parts: Sequence[str], name: str) -> None:
        """Append files to a temporary file, and rename it."""
        with self._unfinished(name) as (unfinished, final):
            with unfinished.open("wb") as file:
                for part in parts:
                    with self.fetch(part, unfinished.parent).open("rb") as source:
                        shutil.copyfileobj(source, file)
            flush(unfinished)
            unfinished.replace(final)

    def join_checked(self, parts: Sequence[str], name: str, sha256: str) -> bool:
        """Append files to a temporary file; rename it if it has the hash."""
        digest = hashlib.sha256()
        with self._unfinished(name) as (unfinished, final):
            with unfinished.open("wb") as file:
                for part in parts:
                    for block in self._blocks(part):
                        digest.update(block)
                        file.write(block)
            if digest.hexdigest() != sha256:
                return False
            flush(unfinished)
            unfinished.replace(final)
        return True

    def delete(self, name: str) -> None:
        """Delete a file or link, and folders that are then empty."""
        *folders, last = split_name(name)
        path = self._paths.walk(folders)[0] / last
        with writing(self.root), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
        for folder in path.parents:  # remove folders that are empty now: a bucket has no folders of its own
            if folder == self.root or folder.parent == self.root:
                return
            try:
                folder.rmdir()
            except OSError:
                return

    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects whose names begin with `prefix`."""
        *folders, last = split_name(prefix.rstrip("/"))
        folder = self._paths.walk(folders)[0]
        for path in [folder / last] if prefix.endswith("/") else list(folder.glob(f"{glob.escape(last)}*")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                self.delete(path.relative_to(self.root).as_posix())

    def upload(self, path: Path, name: str) -> None:
        """Copy a file and flush it to disk, then rename it."""
        with self._unfinished(name) as (unfinished, final):
            shutil.copyfile(path, unfinished)
            flush(unfinished)
            unfinished.replace(final)

    def fetch(self, name: str, into: Path, *, in_place: bool = False) -> Path:
        """Return an object's own path; nothing is copied to `into`."""
        if self.stat(name) is None:
            raise ObjectNotFound(f"there is no {name!r} in {self.bucket}")
        return self._file(name)

    def fetch_folder(self, prefix: str, into: Path, *, in_place: bool = False) -> Path:
        """Return the objects' own folder; nothing is copied to `into`."""
        prefix = prefix.rstrip("/") + "/"
        folder, visited = self._paths.walk(split_name(prefix.rstrip("/")))
        if not list(self._paths.files(folder, visited, prefix)):  # visits every file, so that it finds unsafe links
            raise ObjectNotFound(f"there is no {prefix!r} in {self.bucket}")
        return folder

    def uri(self, name: str) -> str:
        """Return the path of an object's file."""
        return str(self._file(name.rstrip("/")))

    def link(self, name: str) -> Link:
        """Return the path of an object's file as a link."""
        return Link(path=self.uri(name))

    def upload_link(self, name: str, size: int) -> UploadLink:
        """Raise NoSignedLinks: a workstation's service takes parts itself."""
        hint = "send the parts with PUT /datasets/{dataset_id}/parts"
        raise NoSignedLinks("the service of a workstation has no links for uploads", hint=hint)

    def mark_used(self, prefix: str, at: datetime) -> None:
        """Do nothing: a workstation deletes no base models."""

    def remove_unfinished(self, before: datetime) -> None:
        """Delete temporary files that crashed writers left before this time."""
        for path in (self.root / UNFINISHED).glob("*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before.timestamp():
                    path.unlink()

    def _blocks(self, name: str) -> Iterator[bytes]:
        """Yield a file's content block by block. Raises ObjectNotFound."""
        try:
            with self._file(name).open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    yield block
        except (FileNotFoundError, IsADirectoryError):
            raise ObjectNotFound(f"there is no {name!r} in {self.bucket}") from None

    @contextmanager
    def _unfinished(self, name: str, content: bytes = b"") -> Iterator[tuple[Path, Path]]:
        """Yield a new temporary file of a content, and the final path.

        The folders of both exist. At the end, the temporary file is deleted if it was not moved.
        """
        path = self._file(name)
        with writing(self.root):
            self._make_folder(path.parent)
            folder = self.root / UNFINISHED
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
            handle, unfinished = tempfile.mkstemp(dir=folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    os.fchmod(handle, self._modes.file)
                    write_through(file, content)
                yield Path(unfinished), path
            finally:
                Path(unfinished).unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        """Create a folder and its parents with the bucket's permissions."""
        if folder.is_dir():
            return
        missing = [folder, *folder.parents]
        missing = missing[: next(index for index, path in enumerate(missing) if path.is_dir())]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            with suppress(FileNotFoundError):  # deleted by another process since
                path.chmod(self._modes.folder)

    def _file(self, name: str) -> Path:
        """Return the path of an object's file, which may not exist.

        Raises UnsafeName.
        """
        return self._paths.path(split_name(name))

    def _stat(self, path: Path) -> ObjectStat:
        """Return a file's size and modification time as an ObjectStat."""
        stat = path.stat()
        return ObjectStat(
            name=path.relative_to(self.root).as_posix(),
            bytes=stat.st_size,
            updated_at=datetime.fromtimestamp(stat.st_mtime, UTC),
        )


def folder_buckets(settings: Settings) -> Buckets:
    """Return the four buckets, as folders in GEMTUNE_HOME."""
    return Buckets(
        config=FolderObjects(settings.home / settings.config_bucket, settings.config_bucket),
        data=FolderObjects(settings.home / settings.data_bucket, settings.data_bucket),
        uploads=FolderObjects(settings.home / settings.uploads_bucket, settings.uploads_bucket),
        export=FolderObjects(settings.home / settings.export_bucket, settings.export_bucket, READABLE),
    )
