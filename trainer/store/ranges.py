"""Copies of large files to the objects store, range by range.

At most one range is in memory and nothing on the disk, which is memory too on Cloud Run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from gemtune.ports import Objects

# Bytes of one range. Each becomes an object; when all are there, they are joined.
RANGE_BYTES = 64 * 1024 * 1024


def copy(
    objects: Objects,
    name: str,
    size: int,
    fetch: Callable[[int, int], bytes],
    *,
    check_stop: Callable[[], None],
    check_head: Callable[[bytes], None],
) -> str:
    """Copy a file to an object; return its SHA-256.

    Ranges that an interrupted copy has left are not fetched again. fetch: returns the bytes at an offset, of a length.
    check_head: gets the first range, and raises if the rest is not worth copying.
    """
    parts, digest = [], hashlib.sha256()
    for number, start in enumerate(range(0, max(size, 1), RANGE_BYTES)):
        check_stop()
        length = min(RANGE_BYTES, size - start)
        part = f"{_parts(name)}{number:05}"
        stat = objects.stat(part)
        if stat is not None and stat.bytes == length:
            content = objects.read_range(part, 0, length)
        else:
            content = fetch(start, length)
            if len(content) != length:
                raise OSError(f"the server sent {len(content)} of {length} bytes of {name} at {start}")
            objects.write(part, content)
        if start == 0:
            check_head(content)
        digest.update(content)
        parts.append(part)
    objects.join(parts, name)
    discard(objects, name)
    return digest.hexdigest()


def discard(objects: Objects, name: str) -> None:
    """Delete the ranges of an object that is not joined, or is already."""
    objects.delete_prefix(_parts(name))


def _parts(name: str) -> str:
    return f"{name}.range-"
