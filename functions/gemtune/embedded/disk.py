"""Writes to disk; a full, read-only or failing disk is one error, CannotStore."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gemtune.errors import CannotStore

REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
SQLITE_REFUSALS = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raise CannotStore if the block fails because of the disk.

    Other errors propagate. `place` is the file or folder that the error names.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise CannotStore(str(place), os.strerror(error.errno)) from error
    except sqlite3.OperationalError as error:
        # The low byte is the primary result code: https://www.sqlite.org/rescode.html
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in SQLITE_REFUSALS:
            raise
        raise CannotStore(str(place), str(error)) from error


def make_folder(path: Path) -> None:
    """Create a private folder and its missing parents. Raises CannotStore."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:  # FileExistsError too: a file has this name
        raise CannotStore(str(path), error.strerror or str(error)) from error


def write_through(file: BinaryIO, content: bytes) -> None:
    """Write to a new file and flush it to disk.

    An empty file has nothing to flush. The flush is for the content: names are given to complete files afterwards.
    """
    if content:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """Flush a file's content to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
