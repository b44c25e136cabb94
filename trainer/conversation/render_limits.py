"""Limits of CPU time and memory for a stranger's template: some loops, or a text that doubles, would take an hour.

They hold while the block runs, in the main thread, and cost some 30 µs. Limits of the whole process are lowered for
that long: its other threads only wait meanwhile. CPU time counts and not the clock, so that a busy machine ends nothing
early.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from types import FrameType, TracebackType

# A template takes milliseconds for a conversation of a megabyte.
CPU_SECONDS = 5.0
# A single operation in C (a comparison of lists that contain each other a million times over) hears no signal of
# Python's. This many seconds later the kernel ends the process, and the step counts as crashed.
LAST_SECONDS = 15
MEMORY_BYTES = 1024 * 1024 * 1024
# How much address space the process has, in pages. Without it (macOS) memory has no limit.
STATUS = "/proc/self/statm"


class LimitReached(BaseException):
    """More CPU time or memory than a template may take. No Exception: nothing on the way may catch it."""


class RenderLimits:
    """A block that may take CPU_SECONDS and MEMORY_BYTES more than the process has. Raises LimitReached."""

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
        """Lower a limit for now; what it may be raised to again stays."""
        soft, hard = self._limits[limit]
        bounds = [bound for bound in (soft, hard, value) if bound != resource.RLIM_INFINITY]
        resource.setrlimit(limit, (min(bounds), hard))


def _address_space() -> int | None:
    """Bytes of address space that this process has; None where the kernel does not say."""
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
