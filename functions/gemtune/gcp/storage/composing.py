"""Composing of objects of others, without moving their contents.

A request composes up to COMPOSED objects, so that more of them are composed in several levels.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from google.api_core.exceptions import NotFound

from gemtune.gcp.storage.limits import TIMEOUT, retry_policy

if TYPE_CHECKING:
    from _hashlib import HASH

    from _typeshed import ReadableBuffer
    from google.cloud import storage

COMPOSED = 32


def join(parts: Sequence[storage.Blob], target: storage.Blob) -> None:
    """Compose an object of others. Raises NotFound."""
    with _level(parts, copied=False) as level:
        _compose(level, target)


def join_checked(parts: Sequence[storage.Blob], target: storage.Blob, sha256: str) -> bool:
    """Compose an object of others if their contents have a hash.

    Whoever has a link can replace a part at any time. So copies are compared and composed, whose names only this call
    knows. They also leave behind the headers that a part was sent with, such as a Content-Encoding. Raises NotFound.
    """
    digest = hashlib.sha256()
    with _level(parts, copied=True) as level:
        for blob in level:
            blob.download_to_file(_Digesting(digest), timeout=TIMEOUT)
        if digest.hexdigest() != sha256:
            return False
        _compose(level, target)
    return True


class _Digesting(io.RawIOBase):
    """File of which only the digest of what is written remains."""

    def __init__(self, digest: HASH):
        self._digest = digest

    def write(self, block: ReadableBuffer) -> int:
        self._digest.update(block)
        return memoryview(block).nbytes


@contextmanager
def _level(parts: Sequence[storage.Blob], *, copied: bool) -> Iterator[Sequence[storage.Blob]]:
    """Yield at most COMPOSED objects with the contents of others, in order.

    copied: not the parts themselves, even if they are no more than that. New objects are deleted at the end. Raises
    NotFound.
    """
    level = list(parts)
    created: list[storage.Blob] = []
    try:
        while len(level) > COMPOSED or (copied and not created):
            groups = [level[first : first + COMPOSED] for first in range(0, len(level), COMPOSED)]
            level = [parts[0].bucket.blob(f"{parts[0].name}.{uuid.uuid4().hex}") for _ in groups]
            created += level
            for group, composed in zip(groups, level, strict=True):
                _compose(group, composed)
        yield level
    finally:
        for blob in created:
            with suppress(NotFound):
                blob.delete(timeout=TIMEOUT)


def _compose(parts: Sequence[storage.Blob], target: storage.Blob) -> None:
    target.compose(parts, timeout=TIMEOUT, retry=retry_policy())
