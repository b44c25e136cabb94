"""Lock of a GEMTUNE_HOME, by which only one server uses it."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gemtune.embedded.disk import make_folder, writing
from gemtune.errors import GemtuneError

NAME = "server.lock"
PID = re.compile("[1-9][0-9]{0,9}", re.ASCII)
# A process that asks who has the lock takes it for an instant, so a server tries some times. Who asks tries longer: a
# server that has the lock writes its id next.
ATTEMPTS, ATTEMPTS_TO_ASK, PAUSE_SECONDS = 10, 200, 0.01


class CannotServe(GemtuneError):
    """Raised if the server cannot start.

    Its port or its GEMTUNE_HOME is in use.
    """

    code = "cannot_serve"


class CannotStop(GemtuneError):
    """Raised if it is not certain which process serves a GEMTUNE_HOME."""

    code = "cannot_stop"


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
    """Return the process that serves a GEMTUNE_HOME, or None.

    Raises CannotStop if the process with the written id is not the one with the lock. The id may be that of an earlier
    server, or of a process in a container, where another process of this machine may have it.
    """
    try:
        lock = (home / NAME).open(errors="replace")
    except FileNotFoundError:
        return None
    with lock:
        for _ in range(ATTEMPTS_TO_ASK):
            if _flock(lock, fcntl.LOCK_SH):
                return None
            lock.seek(0)
            written = lock.read(20).strip()
            if PID.fullmatch(written) and _has_opened(int(written), home / NAME):
                return int(written)
            time.sleep(PAUSE_SECONDS)
    message = f"a process uses {home}, but this one cannot see which"
    raise CannotStop(message, hint="stop it as the user, and in the container or on the machine, that started it")


def _has_opened(process: int, path: Path) -> bool:
    """Return whether a process is seen to have opened a file."""
    import psutil

    try:
        return any(path.samefile(file.path) for file in psutil.Process(process).open_files())
    except (psutil.Error, OSError):
        return False


def _flock(lock: IO[str], kind: int) -> bool:
    """Take a lock if it is free; return whether it was."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
