"""Objects of the four buckets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """Name, size and modification time of an object."""

    name: str
    bytes: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """Address that reads one object without credentials.

    Either a URL, which is valid for one hour, or a path on this machine.
    """

    url: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class UploadLink:
    """Address that writes one object without credentials, for one hour.

    The content is sent with PUT and these headers, and has the size that the link was made for.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str]


# Objects that are read whole into memory are small. The largest is a loss history, with one line per train_step.
MAX_READ_BYTES = 256 * 1024 * 1024


class Objects(Protocol):
    """Objects of one bucket, by name.

    Names are relative and separated by `/`; `.`, `..`, empty parts and control characters raise UnsafeName. Methods
    that write raise CannotStore if the disk is full or read-only.

    If objects are files, every method follows symbolic links that stay inside the bucket, except that deleting removes
    the link itself. A link that leads out of the bucket or forms a cycle raises UnsafeName, from `list` too.
    """

    bucket: str
    digest_algorithm: Literal["sha256", "crc32c"]
    # True if `upload_link` makes links for a service that is allowed to sign them.
    has_upload_links: bool

    def read(self, name: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return an object's content.

        Raises ObjectNotFound, and Unreadable with the code `too_large` above `max_bytes`.
        """
        ...

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes of an object from offset `start`.

        Raises ObjectNotFound.
        """
        ...

    def create(self, name: str, content: bytes) -> None:
        """Write a new object, atomically. Raises ObjectExists."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object, atomically."""
        ...

    def stat(self, name: str) -> ObjectStat | None:
        """Return an object's size and modification time, or None."""
        ...

    def generation(self, name: str) -> str | None:
        """Return a string that differs after each write of the object.

        Returns None if the object does not exist.
        """
        ...

    def digest(self, name: str) -> str:
        """Return `<digest_algorithm>:<digest>` of an object's content.

        Equal content has equal digests. A store of files reads the whole file for it. Raises ObjectNotFound.
        """
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Yield the objects whose names begin with `prefix`, sorted by name.

        after: a name; only objects behind it are read, and of these no more than are asked for, or a page of them.
        """
        ...

    def folders(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the folders in a folder, in the order of the objects in them.

        They are the next parts of the names of objects that begin with `prefix`, which ends with a slash. That is the
        order of their names with a slash behind: `a-b` comes before `a`. after: a folder there, as of `list`.
        """
        ...

    def join(self, parts: Sequence[str], name: str) -> None:
        """Write or replace an object by the contents of others.

        parts: names of at least one object, in order. All of them exist, and stay.
        """
        ...

    def join_checked(self, parts: Sequence[str], name: str, sha256: str) -> bool:
        """Join objects as `join` does, but only if their contents have a hash.

        Returns whether they have it. The contents that are compared are those that are written, also if somebody
        replaces a part meanwhile. Reads them in constant memory. Raises ObjectNotFound if a part is missing.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete an object if it exists."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object whose name begins with `prefix`."""
        ...

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file to an object, without loading it into memory."""
        ...

    def fetch(self, name: str, into: Path, *, in_place: bool = False) -> Path:
        """Return a local path to read an object from.

        It is the object's own file, or a copy in the folder `into`; treat it as read-only. Raises ObjectNotFound.
        in_place: whether a file that is read over the network will do, without a copy; for large files that are read
        once or twice.
        """
        ...

    def fetch_folder(self, prefix: str, into: Path, *, in_place: bool = False) -> Path:
        """Return a local folder with all objects below `prefix/`.

        It is the objects' own folder, or a copy at `into`; treat it as read-only. Raises ObjectNotFound if there is no
        such object. in_place: see `fetch`.
        """
        ...

    def mark_used(self, prefix: str, at: datetime) -> None:
        """Note that the objects below `prefix/` were used now.

        The backend may delete objects of the folder of base models that were not used for long.
        """
        ...

    def remove_unfinished(self, before: datetime) -> None:
        """Delete temporary files that crashed writers left before this time."""
        ...

    def uri(self, name: str) -> str:
        """Return an object's location for users: a path or `gs://…`."""
        ...

    def link(self, name: str) -> Link:
        """Return a link to read an object, which may not exist.

        Raises NoSignedLinks.
        """
        ...

    def upload_link(self, name: str, size: int) -> UploadLink:
        """Return a link to write an object of a size in bytes.

        Raises NoSignedLinks.
        """
        ...


@dataclass(frozen=True, slots=True)
class Buckets:
    """The four buckets of a deployment.

    config: job specs. data: datasets. uploads: job files. export: everything a job writes, below `jobs/<job_id>/`.
    """

    config: Objects
    data: Objects
    uploads: Objects
    export: Objects

    def named(self, bucket: str) -> Objects | None:
        """Return the bucket with this name, or None if it is none of the four."""
        return next((b for b in (self.config, self.data, self.uploads, self.export) if b.bucket == bucket), None)
