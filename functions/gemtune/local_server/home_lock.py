"""Lock of a GEMTUNE_HOME, by which only one server uses it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gemtune.embedded.disk import make_folder, writing
from gemtune.errors import GemtuneError

NAME = "server.lock"
# A process that asks who has the lock takes it for an instant, so a server tries some times.
ATTEMPTS, PAUSE_SECONDS = 10, 0.01


class CannotServe(GemtuneError):
    """Raised if the server cannot start.

    Its port or its GEMTUNE_HOME is in use.
    """

    code = "cannot_serve"


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the lock of a GEMTUNE_HOME; the file has this process's id.

    The operating system releases the lock at the end of the process, even after a crash. Raises CannotServe if another
    process holds it.
    """
    make_folder(home)
    with writing(home):
        lock = (home / NAME).open("a+")
    with lock:
        for _ in range(ATTEMPTS):
            if _flock(lock, fcntl.LOCK_EX):
                break
            time.sleep(PAUSE_SECONDS)
        else:
            message = f"another gemtune server is already using {home}"
            raise CannotServe(message, hint="use that server, or set GEMTUNE_HOME to another folder")
        with writing(home):
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
        yield


def holder(home: Path) -> int | None:
    """Return the process that serves a GEMTUNE_HOME, or None."""
    try:
        lock = (home / NAME).open()
    except FileNotFoundError:
        return None
    with lock:
        while not _flock(lock, fcntl.LOCK_SH):
            lock.seek(0)
            written = lock.read().strip()
            if written.isdecimal():
                return int(written)
            time.sleep(PAUSE_SECONDS)  # the process has the lock, and is about to write its id
    return None


def _flock(lock: IO[str], kind: int) -> bool:
    """Take a lock if it is free; return whether it was."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
