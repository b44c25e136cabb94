"""Benchmark of training: this project's and plain scripts of its peers.

`python -m bench.train [--steps N]`. Each peer does the same training in a process of its own: LoRA on Gemma 3 270M
(built into the cache if necessary) and on a tiny Gemma, with two shapes of rows: all tokens trained, and only the last
fifth of each row. The processes alternate: each one runs its first train_step, then each its second, and so on, so that
a machine that is slow for some minutes is slow for all. Their order changes randomly, because the process after one
that allocates and frees 13 GB waits for the system to clean up.

It prints tokens per second, peak memory, seconds per phase and the largest difference of a loss from plain TRL's, and
writes `bench/results.json`. Ratios are to TRL's defaults and to the fastest peer: medians over train_steps of the ratio
of two processes on the same rows. The first train_step, which warms up, is left out. Train_steps of the tiny model are
short, so it runs ten times as many.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import IO, Any

from bench.train_peers import PEERS
from bench.train_rows import SHAPES, Rows, rows

RESULTS = Path(__file__).parent / "results.json"
COMPARED = ("all_tokens", "completion_fifth")
OURS, BASELINE = "gemtune", "trl"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One peer's run.

    rates: tokens per second of each train_step but the first. peak_mb: resident memory. seconds_before: from the start
    of the process to its first train_step.
    """

    rates: list[float]
    peak_mb: float
    seconds_before: float
    seconds_first_step: float
    losses: list[float]


def main() -> None:
    """Compare all peers on the chosen models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="train_steps of each run, the first one left out")
    parser.add_argument("--model", choices=["270m", "tiny", "both"], default="both")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if arguments.model in ("270m", "both"):
        from examples.build_base_model import build

        results["cpu"] = _compare("Gemma 3 270M", build(), arguments.steps)
    if arguments.model in ("tiny", "both"):
        from tests import tiny_gemma

        with tempfile.TemporaryDirectory() as folder:
            tiny = tiny_gemma.build(Path(folder) / "tiny")
            results["cpu_tiny"] = _compare("tiny Gemma 3", tiny, 10 * arguments.steps)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    stored["train"] = stored.get("train", {}) | results | {"machine": machine(), "at": today()}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def _compare(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """Compare all peers on one model, in each shape of rows."""
    compared = {}
    for shape in COMPARED:
        print(f"\n{name}, {shape}, {steps} train_steps", flush=True)
        train_rows = rows(SHAPES[shape], folder / "tokenizer.json", steps)
        lengths = [len(row["input_ids"]) for row in train_rows]
        compared[shape] = ratios(measure(tuple(PEERS), shape, folder, train_rows, lengths), OURS, BASELINE)
    return compared


def measure(
    peers: Sequence[str], shape: str, folder: Path, train_rows: Rows, lengths: Sequence[int]
) -> dict[str, Measurement]:
    """Run all peers on the same rows, alternating after each train_step.

    lengths: tokens per row, without padding.
    """
    per_step = SHAPES[shape].rows_per_step
    steps = len(train_rows) // per_step
    tokens = [sum(lengths[first : first + per_step]) for first in range(0, len(lengths), per_step)]
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "rows.json"
        file.write_text(json.dumps(train_rows))
        processes = {}
        for peer in peers:  # one after the other, because loading takes every core
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            processes[peer] = stack.enter_context(PeerProcess([peer, shape, str(folder), str(steps), str(file)], log))
        seconds: dict[str, list[float]] = {peer: [] for peer in peers}
        generator = random.Random(0)
        for count in tokens:
            for peer in generator.sample(list(processes), len(processes)):
                seconds[peer].append(processes[peer].train_step())
            print("  ".join(f"{peer} {count / times[-1]:.1f}" for peer, times in seconds.items()), flush=True)
        results = {peer: process.answer() for peer, process in processes.items()}
    return {
        peer: Measurement(
            rates=[count / step for count, step in zip(tokens, seconds[peer], strict=True)][1:],
            peak_mb=results[peer]["peak_mb"],
            seconds_before=processes[peer].seconds_before,
            seconds_first_step=seconds[peer][0],
            losses=results[peer]["losses"],
        )
        for peer in peers
    }


class PeerEnded(SystemExit):
    """Raised when the process of a peer has ended before its last answer.

    log: the last lines that it wrote.
    """

    def __init__(self, command: Sequence[str], log: str):
        super().__init__(f"{log}\n{' '.join(command)} ended")
        self.log = log


class PeerProcess:
    """A process of one peer, ready for its first train_step.

    arguments: the command line of `module`, as `bench.train_peers` describes it. log: receives its other output.
    seconds: time after which the process is killed. Raises PeerEnded.
    """

    def __init__(
        self, arguments: list[str], log: IO[str], *, module: str = "bench.train_peers", seconds: float | None = None
    ):
        self._log, self._command = log, [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        self._timer = None if seconds is None else Timer(seconds, self._process.kill)
        if self._timer is not None:
            self._timer.start()
        try:
            self.seconds_before: float = self.answer()["seconds_before"]
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._process.kill()
        self._process.wait()

    def train_step(self) -> float:
        """Run one train_step and return its seconds."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `answer` says why it ended
            print(file=self._process.stdin)
        return float(self.answer()["seconds"])

    def answer(self) -> dict[str, Any]:
        """Return the next line of output, parsed.

        Raises PeerEnded with the end of its log if the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise PeerEnded(self._command, self._log.read()[-4000:])
        answer: dict[str, Any] = json.loads(line)
        return answer


def ratios(measured: dict[str, Measurement], own: str, other: str) -> dict[str, Any]:
    """Compare one peer with all others; print the results and return them.

    other: the baseline, to which memory and losses are compared.
    """
    ours, baseline = measured[own], measured[other]
    times = {
        peer: statistics.median(a / b for a, b in zip(ours.rates, run.rates, strict=True))
        for peer, run in measured.items()
        if peer != own
    }
    best = min(times, key=lambda peer: times[peer])
    differences = [abs(a - b) for a, b in zip(ours.losses, baseline.losses, strict=True)]
    compared = {
        "tokens_per_second": round(statistics.median(ours.rates), 1),
        "peak_mb": round(ours.peak_mb),
        "tokens_per_second_ratio": round(times[other], 2),
        "peak_memory_ratio": round(ours.peak_mb / baseline.peak_mb, 2),
        "best_peer": best,
        "best_peer_ratio": round(times[best], 2),
        "max_loss_difference": round(max(differences), 4),
        "mean_loss_difference": round(statistics.mean(differences), 4),
        "peers": {
            peer: {"tokens_per_second": round(statistics.median(run.rates), 1), "peak_mb": round(run.peak_mb)}
            for peer, run in measured.items()
        },
    }
    print(f"{'':32} tokens/s   peak MB   before   1st step   last loss")
    for peer, run in measured.items():
        print(
            f"{peer:32} {statistics.median(run.rates):8.1f} {run.peak_mb:9.0f} {run.seconds_before:7.1f}s"
            f" {run.seconds_first_step:8.1f}s   {run.losses[-1]:.4f}"
        )
    print(
        "  ".join(f"{name} {value}" for name, value in compared.items() if name.endswith(("ratio", "nce"))), flush=True
    )
    return compared


def today() -> str:
    """Return the date in UTC, as results.json has it."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def machine() -> str:
    """Describe this machine's processor and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}, Python {platform.python_version()}" if names else platform.platform()


if __name__ == "__main__":
    main()
