"""`python -m bench.train [--steps N]`: this project's training beside plain scripts of its peers, in one run.

Each peer does the same job in a process of its own: LoRA on Gemma 3 270M (built into the cache when it is not there)
and on a tiny Gemma, in two shapes of rows: all tokens trained, and completions of which a fifth is. It prints tokens a
second, peak memory, seconds a phase and the largest difference of a loss from plain TRL's, and writes
`bench/results.json`. Ratios are to TRL's defaults and to the fastest peer of the same run. Tokens a second are the
median of train_steps, so that what else the machine does for a moment decides nothing; the first, which warms up, is
left out. A tiny model's train_steps are short, so it makes ten times as many.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.train_peers import PEERS
from bench.train_rows import SHAPES, Rows, rows

RESULTS = Path(__file__).parent / "results.json"
OURS, BASELINE = "gemtune", "trl"


@dataclass(frozen=True, slots=True)
class Measured:
    """One peer's run."""

    tokens_per_second: float
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
    kept["train"] = kept.get("train", {}) | found | {"machine": _machine(), "at": f"{datetime.now(UTC):%Y-%m-%d}"}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def _compare(name: str, folder: Path, steps: int) -> dict[str, Any]:
    compared = {}
    for shape in SHAPES:
        given = rows(SHAPES[shape], folder / "tokenizer.json", steps)
        print(f"\n{name}, {shape}, {steps} train_steps\n{'':28} tokens/s   peak MB   before   1st step   loss, last")
        measured = {}
        for peer in PEERS:
            found = measured[peer] = _run(peer, shape, folder, steps, given)
            print(
                f"{peer:28} {found.tokens_per_second:8.1f} {found.peak_mb:9.0f} {found.seconds_before:7.1f}s"
                f" {found.seconds_first_step:8.1f}s   {found.losses[-1]:.4f}",
                flush=True,
            )
        compared[shape] = _ratios(measured)
        print(
            "  ".join(f"{name} {value}" for name, value in compared[shape].items() if name.endswith(("ratio", "nce")))
        )
    return compared


def _run(peer: str, shape: str, folder: Path, steps: int, given: Rows) -> Measured:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(given, file)
        file.flush()
        command = [sys.executable, "-m", "bench.train_peers", peer, shape, str(folder), str(steps), file.name]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    a_step = SHAPES[shape].rows_a_step
    lengths = [len(row["input_ids"]) for row in given]
    tokens = [sum(lengths[first : first + a_step]) for first in range(0, len(lengths), a_step)]  # padding is no token
    rates = [count / seconds for count, seconds in zip(tokens, found["seconds"], strict=True)]
    return Measured(
        tokens_per_second=statistics.median(rates[1:]),
        peak_mb=found["peak_mb"],
        seconds_before=found["seconds_before"],
        seconds_first_step=found["seconds"][0],
        losses=found["losses"],
    )


def _ratios(measured: dict[str, Measured]) -> dict[str, Any]:
    ours, baseline = measured[OURS], measured[BASELINE]
    best = max((found.tokens_per_second, peer) for peer, found in measured.items() if peer != OURS)
    differences = [abs(a - b) for a, b in zip(ours.losses, baseline.losses, strict=True)]
    return {
        "tokens_per_second": round(ours.tokens_per_second, 1),
        "peak_mb": round(ours.peak_mb),
        "tokens_per_second_ratio": round(ours.tokens_per_second / baseline.tokens_per_second, 2),
        "peak_memory_ratio": round(ours.peak_mb / baseline.peak_mb, 2),
        "best_peer": best[1],
        "best_peer_ratio": round(ours.tokens_per_second / best[0], 2),
        "max_loss_difference": round(max(differences), 4),
        "mean_loss_difference": round(statistics.mean(differences), 4),
        "peers": {
            peer: {"tokens_per_second": round(found.tokens_per_second, 1), "peak_mb": round(found.peak_mb)}
            for peer, found in measured.items()
        },
    }


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}, Python {platform.python_version()}" if names else platform.platform()


if __name__ == "__main__":
    main()
