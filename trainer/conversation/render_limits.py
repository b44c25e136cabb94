"""Limits of CPU time and memory for rendering an untrusted template.

Without them a few nested loops, or a text that keeps doubling, could take an hour. A block costs about 30 µs. It lowers
limits of the whole process, which is safe because other threads only wait meanwhile, or tokenize a bounded amount of
text. CPU time is limited rather than wall-clock time, so that a busy machine does not interrupt a template early.
"""

from __future__ import annotations

import math
import os
import resource
import signal
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


class LimitReached(BaseException):
    """Raised when rendering takes too much CPU time or memory.

    It is a BaseException so that no `except Exception` on the way catches it.
    """


class RenderLimits:
    """Context manager that limits what its block takes, in the main thread.

    The block may take CPU_SECONDS of CPU time, and MEMORY_BYTES of address space beyond what the process has already.
    Raises LimitReached.
    """

    def __enter__(self) -> None:
        self._limits = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS)}
        if signal.getsignal(signal.SIGPROF) is not _stop:
            signal.signal(signal.SIGPROF, _stop)
        self._lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + CPU_SECONDS) + LAST_SECONDS)
        address_space = _address_space()
        if address_space is not None:
            self._lower(resource.RLIMIT_AS, address_space + MEMORY_BYTES)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        for limit, before in self._limits.items():
            resource.setrlimit(limit, before)
        if isinstance(error, MemoryError):
            raise LimitReached(f"it takes more than {MEMORY_BYTES // 2**20} MiB of memory") from error

    def _lower(self, limit: int, value: int) -> None:
        """Lower a soft limit; the hard limit stays, to raise it again later."""
        soft, hard = self._limits[limit]
        bounds = [bound for bound in (soft, hard, value) if bound != resource.RLIM_INFINITY]
        resource.setrlimit(limit, (min(bounds), hard))


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
