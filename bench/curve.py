"""`python -m bench.curve [--steps N]`: the loss of this project's training beside TRL's, train_step by train_step.

Both train the same LoRA adapter on Gemma 3 270M in bfloat16, with the same rows in the same order, half of each row's
tokens trained. Numbers of 16 bits are rounded after every operation, and no two programs order their operations alike;
how far apart that alone takes two trainings is seen from TRL's twice more: with transformers' eager attention instead
of PyTorch's, and in float32, where rounding is 65,536 times as fine and which so stands for what is exact.
Writes `bench/results.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.train import RESULTS, Turns, machine, today
from bench.train_rows import SHAPES, rows

PEERS = ("gemtune", "trl", "trl, eager attention", "trl, float32")
COMPARED = (
    ("gemtune", "trl"),
    ("trl, eager attention", "trl"),
    ("gemtune", "trl, float32"),
    ("trl", "trl, float32"),
    ("trl, eager attention", "trl, float32"),
)
SHAPE = "curve"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    from examples.build_base_model import build

    losses = _losses(build(), steps)
    found = {
        "steps": steps,
        "first": {peer: losses[peer][0] for peer in PEERS},
        "last": {peer: losses[peer][-1] for peer in PEERS},
        "apart": {f"{one} from {other}": _apart(losses[one], losses[other]) for one, other in COMPARED},
        "machine": machine(),
        "at": today(),
    }
    print(json.dumps(found, indent=1))
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | {"curve": found}, indent=1) + "\n")


def _losses(folder: Path, steps: int) -> dict[str, list[float]]:
    with ExitStack() as ends:
        file = Path(ends.enter_context(tempfile.TemporaryDirectory())) / "rows.json"
        file.write_text(json.dumps(rows(SHAPES[SHAPE], folder / "tokenizer.json", steps)))
        turns = {}
        for peer in PEERS:
            log = ends.enter_context(tempfile.TemporaryFile("w+"))
            turns[peer] = ends.enter_context(Turns([peer, SHAPE, str(folder), str(steps), str(file)], log))
        for step in range(steps):
            for process in turns.values():
                process.train_step()
            if step % 10 == 9:
                print(f"{step + 1} of {steps} train_steps", flush=True)
        return {peer: process.answer()["losses"] for peer, process in turns.items()}


def _apart(a: list[float], b: list[float]) -> dict[str, float]:
    """How far losses of the same train_steps differ: their mean with its sign, and without, and the largest."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    sizes = [abs(difference) for difference in differences]
    return {
        "mean_signed": round(statistics.mean(differences), 5),
        "mean": round(statistics.mean(sizes), 5),
        "largest": round(max(sizes), 5),
    }


if __name__ == "__main__":
    main()
