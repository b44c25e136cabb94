"""A process of its own for what may crash, must be fresh, or brings libraries that the step does without."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gemtune.process import parent_death

# Nothing that a child needs is on the Hub, and nothing that it prints is for people.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
LOOK_SECONDS = 0.05
# What a process dies of when what it read was wrong, other than what the machine lacks (SIGKILL).
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}


@dataclass(frozen=True, slots=True)
class Ended:
    """code: the exit code, negative for a signal. said: the end of its output."""

    code: int
    said: str

    @property
    def last_words(self) -> str:
        """The last three lines that are not blank, in one: Python's own word of an exception stands there."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        return " ".join(lines[-3:])[-600:]

    def check_machine(self) -> None:
        """Raises MemoryError or OSError for an end that says nothing of what the child was given."""
        if self.code == -signal.SIGKILL:
            raise MemoryError("a process of the export was killed; most likely memory ran out")
        if "No space left on device" in self.said:
            raise OSError(28, "No space left on device")


def run(arguments: Sequence[str], check_stop: Callable[[], None]) -> Ended:
    """Run Python with these arguments to its end. `check_stop` raises to give it up; then the child ends too, as it
    does when this process is killed. For a thread that lives as long.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            parent_death.command(arguments, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT,
        )  # fmt: skip
        try:
            while True:
                try:
                    process.wait(LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    check_stop()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(max(0, output.tell() - 4000))
        return Ended(process.returncode, output.read().decode(errors="replace"))
