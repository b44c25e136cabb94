"""Time until `gemtune try` prints the first text of an answer.

`python -m bench.overhead.first_token JOB [ROUNDS]` asks the model of a completed job of the running service, in a
process of its own each time, as a person does. It prints the seconds from the start of the command to the first text,
and those that the processors spend on all its processes. A round before the others reads the files into the memory of
the system and does not count.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from bench.overhead.processor import adopt_orphans, processor_seconds, wait_for_orphans

PROMPT = "What is the capital of Peru?"
ROUNDS = 5


def main() -> None:
    """Print the median, the shortest and the longest of the rounds."""
    adopt_orphans()
    job, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    ask(job)
    measured = [ask(job) for _ in range(rounds)]
    for name, seconds in zip(("first text", "processors"), zip(*measured, strict=True), strict=True):
        print(f"{name}: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")


def ask(job: str) -> tuple[float, float]:
    """Return the seconds until the first text, and of all processors."""
    command = [sys.executable, "-P", "-c", "from gemtune.cli import main; main()"]
    before, began = processor_seconds(), time.perf_counter()
    with subprocess.Popen(
        [*command, "try", job, PROMPT, "--max-tokens", "2", "--quiet"], stdout=subprocess.PIPE
    ) as asking:
        assert asking.stdout is not None
        first = os.read(asking.stdout.fileno(), 1)
        seconds = time.perf_counter() - began
        asking.stdout.read()
    if asking.returncode or not first:
        raise SystemExit(f"gemtune try ended with code {asking.returncode}")
    wait_for_orphans()
    return seconds, processor_seconds() - before


if __name__ == "__main__":
    main()
