"""`python -m bench.train [--steps N]`: this project's training beside plain scripts of its peers, in one run.

Each peer does the same job in a process of its own: LoRA on Gemma 3 270M (built into the cache when it is not there)
and on a tiny Gemma, in two shapes of rows: all tokens trained, and completions of which a fifth is. The processes take
turns: one train_step of each, then the next of each, so that a machine that is slower for some minutes is so for all;
and each time in another order, since who comes after one that takes and frees 13 GB waits for the system's cleaning up.
It prints tokens a second, peak memory, seconds a phase and the largest difference of a loss from plain TRL's, and
writes `bench/results.json`. Ratios are to TRL's defaults and to the fastest peer, medians over the train_steps of what
two processes made of the same rows. The first train_step, which warms up, is left out. A tiny model's train_steps are
short, so it makes ten times as many.
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
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from bench.train_peers import PEERS
from bench.train_rows import SHAPES, Rows, rows

RESULTS = Path(__file__).parent / "results.json"
COMPARED = ("all_tokens", "completion_fifth")
OURS, BASELINE = "gemtune", "trl"


@dataclass(frozen=True, slots=True)
class Measured:
    """One peer's run. rates: tokens a second of each train_step but the first."""

    rates: list[float]
    peak_mb: float
    seconds_before: float
    seconds_first_step: float
    losses: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="train_steps of each run, the first one left out")
    parser.add_argument("--model", choices=["270m", "tiny", "both"], default="both")
    wanted = parser.parse_args()
    found: dict[str, Any] = {}
    if wanted.model in ("270m", "both"):
        from examples.build_base_model import build

        found["cpu"] = _compare("Gemma 3 270M", build(), wanted.steps)
    if wanted.model in ("tiny", "both"):
        from tests import tiny_gemma

        with tempfile.TemporaryDirectory() as folder:
            found["cpu_tiny"] = _compare("tiny Gemma 3", tiny_gemma.build(Path(folder) / "tiny"), 10 * wanted.steps)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept["train"] = kept.get("train", {}) | found | {"machine": machine(), "at": today()}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def _compare(name: str, folder: Path, steps: int) -> dict[str, Any]:
    compared = {}
    for shape in COMPARED:
        print(f"\n{name}, {shape}, {steps} train_steps", flush=True)
        given = rows(SHAPES[shape], folder / "tokenizer.json", steps)
        lengths = [len(row["input_ids"]) for row in given]
        compared[shape] = ratios(measure(tuple(PEERS), shape, folder, given, lengths), OURS, BASELINE)
    return compared


def measure(peers: Sequence[str], shape: str, folder: Path, given: Rows, lengths: Sequence[int]) -> dict[str, Measured]:
    """Each peer's run on these rows, in turns; lengths: tokens of each row."""
    a_step = SHAPES[shape].rows_a_step
    steps = len(given) // a_step
    tokens = [sum(lengths[first : first + a_step]) for first in range(0, len(lengths), a_step)]  # padding is no token
    with ExitStack() as ends:
        file = Path(ends.enter_context(tempfile.TemporaryDirectory())) / "rows.json"
        file.write_text(json.dumps(given))
        turns = {}
        for peer in peers:  # one after the other: loading takes every core
            log = ends.enter_context(tempfile.TemporaryFile("w+"))
            turns[peer] = ends.enter_context(Turns([peer, shape, str(folder), str(steps), str(file)], log))
        seconds: dict[str, list[float]] = {peer: [] for peer in peers}
        chance = random.Random(0)
        for count in tokens:
            for peer in chance.sample(list(turns), len(turns)):
                seconds[peer].append(turns[peer].train_step())
            print("  ".join(f"{peer} {count / taken[-1]:.1f}" for peer, taken in seconds.items()), flush=True)
        found = {peer: process.answer() for peer, process in turns.items()}
    return {
        peer: Measured(
            rates=[count / taken for count, taken in zip(tokens, seconds[peer], strict=True)][1:],
            peak_mb=found[peer]["peak_mb"],
            seconds_before=turns[peer].seconds_before,
            seconds_first_step=seconds[peer][0],
            losses=found[peer]["losses"],
        )
        for peer in peers
    }


class Turns:
    """A process of `bench.train_peers`, ready for its first train_step."""

    def __init__(self, arguments: list[str], log: IO[str]):
        self._log = log
        command = [sys.executable, "-m", "bench.train_peers", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
        )
        self.seconds_before: float = self.answer()["seconds_before"]

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def train_step(self) -> float:
        """Seconds."""
        assert self._process.stdin is not None
        print(file=self._process.stdin)
        return float(self.answer()["seconds"])

    def answer(self) -> dict[str, Any]:
        """The next line. Raises SystemExit with what the process said when there is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            sys.exit(f"{self._log.read()[-4000:]}\n{' '.join(map(str, self._process.args))} ended")  # type: ignore[arg-type]
        answered: dict[str, Any] = json.loads(line)
        return answered


def ratios(measured: dict[str, Measured], own: str, other: str) -> dict[str, Any]:
    """Of one peer to all others, and to one of these above all. Printed, too."""
    ours, baseline = measured[own], measured[other]
    times = {
        peer: statistics.median(a / b for a, b in zip(ours.rates, found.rates, strict=True))
        for peer, found in measured.items()
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
            peer: {"tokens_per_second": round(statistics.median(found.rates), 1), "peak_mb": round(found.peak_mb)}
            for peer, found in measured.items()
        },
    }
    print(f"{'':32} tokens/s   peak MB   before   1st step   loss, last")
    for peer, found in measured.items():
        print(
            f"{peer:32} {statistics.median(found.rates):8.1f} {found.peak_mb:9.0f} {found.seconds_before:7.1f}s"
            f" {found.seconds_first_step:8.1f}s   {found.losses[-1]:.4f}"
        )
    print(
        "  ".join(f"{name} {value}" for name, value in compared.items() if name.endswith(("ratio", "nce"))), flush=True
    )
    return compared


def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}, Python {platform.python_version()}" if names else platform.platform()


if __name__ == "__main__":
    main()
