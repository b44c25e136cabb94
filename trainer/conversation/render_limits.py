"""Limits of CPU time and memory for rendering an untrusted template.

Without them a few nested loops, or a text that keeps doubling, could take an hour. A block lowers limits of the whole
process, which is safe because other threads only wait meanwhile, or tokenize a bounded amount of
text. CPU time is limited rather than wall-clock time, so that a busy machine does not interrupt a template early.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

# A real template takes milliseconds for a conversation of a megabyte.
CPU_SECONDS = 5.0
# Python handles signals between operations only, and a single one (such as comparing deeply nested lists) can take
# hours. This many seconds after CPU_SECONDS the kernel kills the process, and the step counts as crashed.
LAST_SECONDS = 15
MEMORY_BYTES = 1024 * 1024 * 1024
# Size of the process's address space, in pages. macOS has no such file, so memory is not limited there.
STATUS = "/proc/self/statm"
# Linux counts RLIMIT_CPU by the ticks that it finds a process running at, whereas time.process_time() is exact. They
# drift apart by seconds in a long process on a busy machine, and its limit would be reached at once. The clock of ticks
# of the calling process is make_process_cpuclock(0, CPUCLOCK_PROF) of the kernel's include/linux/posix-timers.h.
TICKS = ~0 << 3


class LimitReached(BaseException):
    """Raised when rendering takes too much CPU time or memory.

    It is a BaseException so that no `except Exception` on the way catches it.
    """


class SharedLimits:
    """Context manager for blocks of RenderLimits that share a limit of memory.

    Lowering and restoring that limit takes a third of the time that rendering a short conversation takes with it: 17 of
    54 µs. Each block still has its own CPU time. Nothing that needs much memory belongs inside. For the main thread
    only.
    """

    _open = False

    def __enter__(self) -> None:
        self._is_inner = SharedLimits._open
        if self._is_inner:
            return
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        signal.signal(signal.SIGPROF, _stop)
        address_space = _address_space()
        if address_space is not None:
            _lower(resource.RLIMIT_AS, self._before, address_space + MEMORY_BYTES)
        SharedLimits._open = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_inner:
            SharedLimits._open = False
            resource.setrlimit(resource.RLIMIT_AS, self._before)


class RenderLimits:
    """Context manager that limits what its block takes, in the main thread.

    The block may take CPU_SECONDS of CPU time, and MEMORY_BYTES of address space beyond what the process has already,
    or had when SharedLimits around it began. Raises LimitReached, and RuntimeError in another thread: two threads would
    restore the limits in the wrong order.
    """

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("limits of the whole process are lowered in its main thread only")
        self._memory = SharedLimits()
        self._memory.__enter__()
        self._before = resource.getrlimit(resource.RLIMIT_CPU)
        _lower(resource.RLIMIT_CPU, self._before, math.ceil(_limited_time() + CPU_SECONDS) + LAST_SECONDS)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            signal.setitimer(signal.ITIMER_PROF, 0)
        finally:  # the time may have ended with the block, and a limit that stays would kill the process later
            resource.setrlimit(resource.RLIMIT_CPU, self._before)
            self._memory.__exit__(kind, error, traceback)
        if isinstance(error, MemoryError):
            raise LimitReached(f"it takes more than {MEMORY_BYTES // 2**20} MiB of memory") from error


def _limited_time() -> float:
    """Return the process's CPU seconds as RLIMIT_CPU counts them."""
    return time.clock_gettime(TICKS) if sys.platform == "linux" else time.process_time()


def _lower(limit: int, before: tuple[int, int], value: int) -> None:
    """Lower a soft limit; the hard limit stays, to raise it again later."""
    bounds = [bound for bound in (*before, value) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(limit, (min(bounds), before[1]))


def _address_space() -> int | None:
    """Return the bytes of this process's address space, or None without /proc."""
    try:
        descriptor = os.open(STATUS, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return int(os.read(descriptor, 100).split()[0]) * resource.getpagesize()
    finally:
        os.close(descriptor)


def _stop(number: int, frame: FrameType | None) -> None:
    raise LimitReached(f"it takes more than {CPU_SECONDS:g} s of CPU time")
