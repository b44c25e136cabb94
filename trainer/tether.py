"""`python trainer/tether.py PARENT ARGUMENTS…`: becomes Python with these arguments, and ends when its parent does.

An export that is killed (kill -9, or for want of memory) cannot end what it started: a converter would go on in the
memory that the next attempt needs. Linux ends a process whose parent has died when it asked for that before; what is
asked for here holds for the program that takes this one's place. Run by its path, since it imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl refuses PR_SET_PDEATHSIG")
        if os.getppid() != int(parent):  # it died before that
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
