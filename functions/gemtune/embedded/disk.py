"""What a disk that takes nothing more is called: one error, whoever writes."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemtune.errors import CannotStore

REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
SQLITE_REFUSALS = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raise CannotStore for what says that the disk, and not the caller, is at fault."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise CannotStore(str(place), os.strerror(error.errno)) from error
    except sqlite3.OperationalError as error:
        # The low byte is the kind of the error, the rest a detail of it. https://www.sqlite.org/rescode.html
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in SQLITE_REFUSALS:
            raise
        raise CannotStore(str(place), str(error)) from error


def make_folder(path: Path) -> None:
    """Make a private folder, and those above it that are missing. Raises CannotStore."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:  # a file in its way, too
        raise CannotStore(str(path), error.strerror or str(error)) from error
