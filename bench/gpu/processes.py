"""Processes of `bench.gpu`, and the time that they may take."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

# A part is skipped if fewer seconds are left.
LEAST_SECONDS = 15


class Deadline:
    """The time until which the benchmark may run."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def seconds_for(self, most: float) -> float | None:
        """Return the seconds that a part may take, at most so many.

        None if too few are left to begin.
        """
        left = self._end - time.monotonic()
        return None if left < LEAST_SECONDS else min(left, most)


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended.

    code: its exit code; None if it took too long. output, errors: what it wrote until then.
    """

    code: int | None
    output: str
    errors: str


def run(command: Sequence[str], seconds: float) -> Ended:
    """Run a command, and end it with all its children when its time is up."""
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(
        command, stdin=nothing, stdout=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=seconds)
        return Ended(process.returncode, output, errors)
    except subprocess.TimeoutExpired:
        _kill(process)
        output, errors = process.communicate()
        return Ended(None, output, errors)
    except BaseException:
        _kill(process)
        raise


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with all its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
