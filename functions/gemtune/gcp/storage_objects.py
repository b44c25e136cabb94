"""Objects in a Cloud Storage bucket.

The client checks every whole object that it uploads or downloads against its CRC32C.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from google.api_core.exceptions import NotFound, PreconditionFailed, RequestRangeNotSatisfiable

from gemtune.errors import ObjectExists, ObjectNotFound
from gemtune.gcp.storage import composing
from gemtune.gcp.storage.limits import TIMEOUT, retry_policy
from gemtune.object_name import is_safe, split_name
from gemtune.ports import MAX_READ_BYTES, Buckets, Link, ObjectStat, UploadLink
from gemtune.settings import Settings
from gemtune.untrusted.files import BoundedBuffer

if TYPE_CHECKING:
    from google.cloud import storage

# Files or parts that are transferred in parallel. Threads are enough, since they wait for the network.
WORKERS = 8
# A larger file is downloaded in parts, in parallel, each with its own checksum.
PART_BYTES = 64 * 1024 * 1024
# The character behind a slash: names of a folder's objects come before the folder's with this one behind.
AFTER_SLASH = chr(ord("/") + 1)


class StorageObjects:
    """`ports.Objects` in one Cloud Storage bucket."""

    digest_algorithm: Literal["sha256", "crc32c"] = "crc32c"
    has_upload_links = True

    def __init__(self, project_id: str, bucket: str, mount: Path | None = None):
        """Access a bucket. mount: the folder where Cloud Run has mounted it."""
        self.bucket = bucket
        self._project_id = project_id
        self._mount = mount

    @property
    def _client(self) -> storage.Client:
        return _client(self._project_id)

    def read(self, name: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Download an object. Raises ObjectNotFound, Unreadable."""
        content = BoundedBuffer(name, max_bytes)
        try:
            self._blob(name).download_to_file(content, timeout=TIMEOUT)
        except NotFound:
            raise self._not_found(name) from None
        return content.getvalue()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Download up to `length` bytes of an object from offset `start`."""
        try:
            # Cloud Storage has no checksum of a range.
            return bytes(
                self._blob(name).download_as_bytes(start=start, end=start + length - 1, checksum=None, timeout=TIMEOUT)
            )
        except RequestRangeNotSatisfiable:
            return b""
        except NotFound:
            raise self._not_found(name) from None

    def create(self, name: str, content: bytes) -> None:
        """Upload a new object. Raises ObjectExists."""
        blob, writer = self._blob(name), uuid.uuid4().hex
        blob.metadata = {"writer": writer}
        try:
            blob.upload_from_string(content, if_generation_match=0, timeout=TIMEOUT, retry=retry_policy())
        except PreconditionFailed:
            # If a response was lost, the retry finds the object that this call has written.
            existing = self._get_blob(name)
            if existing is None or (existing.metadata or {}).get("writer") != writer:
                raise ObjectExists(f"there is a {name!r} in {self.bucket} already") from None

    def write(self, name: str, content: bytes) -> None:
        """Upload an object, replacing an older one."""
        self._blob(name).upload_from_string(content, timeout=TIMEOUT, retry=retry_policy())

    def stat(self, name: str) -> ObjectStat | None:
        """Return an object's size and modification time, or None."""
        blob = self._get_blob(name)
        return None if blob is None else _stat(blob)

    def generation(self, name: str) -> str | None:
        """Return an object's generation number, or None."""
        blob = self._get_blob(name)
        return None if blob is None else str(blob.generation)

    def digest(self, name: str) -> str:
        """Return the CRC32C in an object's metadata.

        Downloads compare their content with it. Raises ObjectNotFound.
        """
        blob = self._get_blob(name)
        if blob is None:
            raise self._not_found(name)
        return f"{self.digest_algorithm}:{blob.crc32c}"

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectStat]:
        """Yield the objects whose names begin with `prefix`, sorted by name.

        Skips names that gemtune cannot have written, such as the `folder/` objects of the Cloud Console.
        """
        if prefix:
            split_name(prefix.rstrip("/"))
        for blob in self._client.list_blobs(self.bucket, prefix=prefix, start_offset=after or None, timeout=TIMEOUT):
            if is_safe(blob.name) and blob.name != after:  # an offset is among the names
                yield _stat(blob)

    def folders(self, prefix: str, *, after: str = "") -> Iterator[str]:
        """Yield the next part of the names below a prefix."""
        split_name(prefix.rstrip("/"))
        behind = f"{prefix}{after}{AFTER_SLASH}" if after else None
        listed = self._client.list_blobs(
            self.bucket, prefix=prefix, delimiter="/", start_offset=behind, timeout=TIMEOUT
        )
        for page in listed.pages:
            yield from (folder.removeprefix(prefix).rstrip("/") for folder in sorted(page.prefixes))

    def join(self, parts: Sequence[str], name: str) -> None:
        """Compose an object of others, without moving their contents."""
        with self._missing(parts[0]):
            composing.join([self._blob(part) for part in parts], self._blob(name))

    def join_checked(self, parts: Sequence[str], name: str, sha256: str) -> bool:
        """Compose an object of others if their contents have a hash."""
        with self._missing(parts[0]):
            return composing.join_checked([self._blob(part) for part in parts], self._blob(name), sha256)

    def delete(self, name: str) -> None:
        """Delete an object if it exists."""
        try:
            self._blob(name).delete(timeout=TIMEOUT)
        except NotFound:
            return

    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects whose names begin with `prefix`, in parallel."""
        split_name(prefix.rstrip("/"))
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(self.delete, [stat.name for stat in self.list(prefix)]))

    def upload(self, path: Path, name: str) -> None:
        """Upload a file, replacing an older object."""
        self._blob(name).upload_from_filename(str(path), timeout=TIMEOUT, retry=retry_policy())

    def fetch(self, name: str, into: Path, *, in_place: bool = False) -> Path:
        """Download an object to the folder `into` and return its path.

        in_place: return its path in the mount instead, if the bucket is mounted.
        """
        blob = self._get_blob(name)
        if blob is None:
            raise self._not_found(name)
        if in_place and self._mount is not None:
            return self._mounted(blob, self._mount)
        path = into / name.rpartition("/")[2]
        self._download([(blob, path)])
        return path

    def fetch_folder(self, prefix: str, into: Path, *, in_place: bool = False) -> Path:
        """Download all objects below `prefix/` to the folder `into`.

        in_place: return the folder of the mount instead, if the bucket is mounted.
        """
        prefix = prefix.rstrip("/") + "/"
        split_name(prefix.rstrip("/"))
        listed = self._client.list_blobs(self.bucket, prefix=prefix, timeout=TIMEOUT)
        blobs = [blob for blob in listed if is_safe(blob.name)]
        if not blobs:
            raise self._not_found(prefix)
        if in_place and self._mount is not None:
            for blob in blobs:
                self._mounted(blob, self._mount)
            return self._mount / prefix.rstrip("/")
        self._download([(blob, into / blob.name.removeprefix(prefix)) for blob in blobs])
        return into

    def mark_used(self, prefix: str, at: datetime) -> None:
        """Set the custom time of objects, which a rule of the bucket reads."""
        split_name(prefix.rstrip("/"))
        for blob in self._client.list_blobs(self.bucket, prefix=prefix.rstrip("/") + "/", timeout=TIMEOUT):
            if blob.custom_time is None or blob.custom_time < at:  # it can only be moved forward
                blob.custom_time = at
                blob.patch(timeout=TIMEOUT)

    def remove_unfinished(self, before: datetime) -> None:
        """Do nothing: unfinished uploads are no objects and expire."""

    def uri(self, name: str) -> str:
        """Return an object's `gs://` URI."""
        return f"gs://{self.bucket}/{'/'.join(split_name(name.rstrip('/')))}"

    def link(self, name: str) -> Link:
        """Return a signed URL as a link. Raises NoSignedLinks."""
        from gemtune.gcp.storage.signed_url import signed_url

        return Link(url=signed_url(self._client, self._blob(name)))

    def upload_link(self, name: str, size: int) -> UploadLink:
        """Return a signed URL that takes `size` bytes. Raises NoSignedLinks."""
        from gemtune.gcp.storage.signed_url import signed_upload

        return signed_upload(self._client, self._blob(name), size)

    def _mounted(self, blob: storage.Blob, mount: Path) -> Path:
        """Return an object's path in the mount of its bucket.

        Raises OSError if the mount does not show the object as it is.
        """
        path: Path = mount / blob.name
        size = path.stat().st_size if path.is_file() else None
        if size != blob.size:
            state = "is missing" if size is None else f"has {size} bytes instead of {blob.size}"
            raise OSError(f"{blob.name} {state} in {mount}, where {self.bucket} is mounted")
        return path

    def _download(self, pairs: Sequence[tuple[storage.Blob, Path]]) -> None:
        """Download objects to paths, in parallel; large ones in parts."""
        from google.cloud.storage import transfer_manager

        for _, path in pairs:
            path.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"worker_type": transfer_manager.THREAD, "max_workers": WORKERS}
        transfer_manager.download_many(
            [(blob, str(path)) for blob, path in pairs if (blob.size or 0) <= PART_BYTES],
            download_kwargs={"timeout": TIMEOUT},
            raise_exception=True,
            **options,
        )
        for blob, path in pairs:
            if (blob.size or 0) > PART_BYTES:
                transfer_manager.download_chunks_concurrently(
                    blob, str(path), chunk_size=PART_BYTES // 2, download_kwargs={"timeout": TIMEOUT}, **options
                )

    def _get_blob(self, name: str) -> storage.Blob | None:
        """Return an object with its metadata, or None. Raises UnsafeName."""
        split_name(name)
        return self._client.bucket(self.bucket).get_blob(name, timeout=TIMEOUT)

    def _blob(self, name: str) -> storage.Blob:
        """Return a reference to an object, without a request.

        Raises UnsafeName.
        """
        split_name(name)
        return self._client.bucket(self.bucket).blob(name)

    @contextmanager
    def _missing(self, name: str) -> Iterator[None]:
        """Raise ObjectNotFound if an object is not there, such as this one."""
        try:
            yield
        except NotFound:
            raise self._not_found(name) from None

    def _not_found(self, name: str) -> ObjectNotFound:
        return ObjectNotFound(f"there is no {name!r} in {self.bucket}")


def storage_buckets(settings: Settings) -> Buckets:
    """Return the four buckets of a deployment."""
    names = (settings.config_bucket, settings.data_bucket, settings.uploads_bucket, settings.export_bucket)
    mounts = (None if settings.mounts is None else settings.mounts / name for name in names)
    return Buckets(
        *(StorageObjects(settings.project_id, name, mount) for name, mount in zip(names, mounts, strict=True))
    )


@lru_cache(maxsize=8)
def _client(project_id: str) -> storage.Client:
    """Return the client, and so the connection pool, that all buckets share."""
    from google.cloud import storage

    # The client would ask for each bucket's metadata in the background, which the roles on objects do not permit: an
    # error in the audit log for each new process. Its maintainers name this variable as the way to turn that off:
    # https://github.com/googleapis/google-cloud-python/pull/18203
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    return storage.Client(project=project_id)


def _stat(blob: storage.Blob) -> ObjectStat:
    return ObjectStat(name=blob.name, bytes=blob.size, updated_at=blob.updated)
