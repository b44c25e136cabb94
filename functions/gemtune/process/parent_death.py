"""`python parent_death.py PARENT SIGNAL ARGUMENTS…`: Python that is signalled when its parent ends.

What is killed (kill -9, or for want of memory) cannot end what it started: an export's converter would go on in the
memory that the next attempt needs, a demo's server would keep its port. Linux sends a signal to a process whose parent
has died when it asked for that before; what is asked for here holds for the program that takes this one's place. Run by
its path, since it imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(arguments: Sequence[str], signal: int) -> list[str]:
    """What runs Python with these arguments as a child that gets `signal` when this process ends. For a thread that
    lives as long: Linux takes the starting thread for the parent."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(signal)), *arguments]


def main() -> None:
    parent, number, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl refuses PR_SET_PDEATHSIG")
        if os.getppid() != int(parent):  # it died before that
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main()
