"""Processor time of child processes."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def processor_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def adopt_orphans() -> None:
    """Become the parent of processes whose parent is killed.

    Otherwise the time of children of a killed child is counted nowhere. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl rejected PR_SET_CHILD_SUBREAPER")


def wait_for_orphans() -> None:
    """Wait until all child processes have ended."""
    with suppress(ChildProcessError):
        while True:
            os.wait()
