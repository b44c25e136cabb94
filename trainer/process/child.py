"""Runs Python in a child process.

For work that may crash, needs a fresh process, or imports libraries that the step itself avoids.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gemtune.process import parent_death

# Children need nothing from the Hub, and their output is for log files only.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
POLL_SECONDS = 0.05
# Signals that end a process which read a malformed file. SIGKILL is not one: it means that memory ran out.
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}


@dataclass(frozen=True, slots=True)
class ChildResult:
    """The end of a child process.

    code: the exit code, negative for a signal. output: the last 4,000 bytes of its output.
    """

    code: int
    output: str

    @property
    def last_lines(self) -> str:
        """Return the last three lines that are not blank, as one line.

        They hold the message of an uncaught Python exception.
        """
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return " ".join(lines[-3:])[-600:]

    def check_machine(self) -> None:
        """Raise MemoryError or OSError if the machine was at fault.

        Any other failure is due to the child's input.
        """
        if self.code == -signal.SIGKILL:
            raise MemoryError("a process of the export was killed, most likely because memory ran out")
        if "No space left on device" in self.output:
            raise OSError(28, "No space left on device")


def run(arguments: Sequence[str], check_stop: Callable[[], None]) -> ChildResult:
    """Run Python with these arguments until it ends.

    check_stop: called while waiting; if it raises, the child is killed. The child is also killed when this process
    dies. Call it in a thread that lives as long: the child's parent-death signal follows the thread.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            parent_death.command(arguments, signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
        )
        try:
            while True:
                try:
                    process.wait(POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    check_stop()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(max(0, output.tell() - 4000))
        return ChildResult(process.returncode, output.read().decode(errors="replace"))
