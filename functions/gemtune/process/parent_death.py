"""Launcher for a Python child that gets a signal when its parent dies.

Usage: `python parent_death.py PARENT_PID SIGNAL ARGUMENTS…`

A process that is killed with SIGKILL, by a user or by the out-of-memory killer, cannot stop its children: an export's
converter would keep the memory that the next attempt needs, a demo's server would keep its port. Linux sends a process
a signal when its parent dies, if the process has asked for it with PR_SET_PDEATHSIG. That setting survives `execv`, so
this script sets it and then replaces itself with `python ARGUMENTS…`. It is run by its path and imports only the
standard library.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(arguments: Sequence[str], signal_number: int) -> list[str]:
    """Return the command line for a child that ends with this process.

    The command runs Python with the given arguments. The child gets the signal when this process ends. Start it from a
    thread that lives as long as the process: Linux takes the thread that starts a child for its parent.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(signal_number)), *arguments]


def main() -> None:
    """Request the signal, then replace this process with Python."""
    parent, signal_number, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl rejected PR_SET_PDEATHSIG")
        if os.getppid() != int(parent):  # the parent died before prctl was called, so no signal will come
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
