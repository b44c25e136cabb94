"""Readers of files and downloads that others have written."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.untrusted.limits import MAX_BYTES, Unreadable, too_large

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def read_file(path: Path, *, named: str | None = None, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file.

    A pipe or a device, on which reading could block, is refused without waiting.

    Raises OSError, and Unreadable: `not_a_file`, `too_large`.
    """
    named = path.name if named is None else named
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Unreadable("not_a_file", f"{named} is not a regular file", hint="put the file itself there")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise too_large(named, max_bytes)
    return content


class BoundedBuffer(io.BytesIO):
    """In-memory file that raises Unreadable, `too_large`, above `max_bytes`."""

    def __init__(self, name: str, max_bytes: int):
        """Begin empty. name: what the error calls it."""
        super().__init__()
        self._name, self._max_bytes = name, max_bytes

    def write(self, part: ReadableBuffer) -> int:
        if self.tell() + memoryview(part).nbytes > self._max_bytes:
            raise too_large(self._name, self._max_bytes)
        return super().write(part)
