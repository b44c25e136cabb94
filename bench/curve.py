"""Benchmark of loss curves: this project's training and TRL's, step by step.

`python -m bench.curve [--steps N]`. Both train the same LoRA adapter on Gemma 3 270M in bfloat16, with the same rows in
the same order, and half of each row's tokens are trained. 16-bit numbers are rounded after every operation, and no two
programs order their operations alike. Two more runs of TRL show how far that alone drives runs apart: one with
transformers' eager attention instead of PyTorch's, and one in float32, whose rounding is 65,536 times as fine and which
therefore stands for the exact result. Writes `bench/results.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.train import RESULTS, PeerProcess, machine, today
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
    """Train with all peers and print how much their losses differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    from examples.build_base_model import build

    losses = _losses(build(), steps)
    results = {
        "steps": steps,
        "first": {peer: losses[peer][0] for peer in PEERS},
        "last": {peer: losses[peer][-1] for peer in PEERS},
        "apart": {f"{one} from {other}": _differences(losses[one], losses[other]) for one, other in COMPARED},
        "machine": machine(),
        "at": today(),
    }
    print(json.dumps(results, indent=1))
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(earlier | {"curve": results}, indent=1) + "\n")


def _losses(folder: Path, steps: int) -> dict[str, list[float]]:
    """Return the loss of every train_step of each peer."""
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "rows.json"
        file.write_text(json.dumps(rows(SHAPES[SHAPE], folder / "tokenizer.json", steps)))
        processes = {}
        for peer in PEERS:
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            arguments = [peer, SHAPE, str(folder), str(steps), str(file)]
            processes[peer] = stack.enter_context(PeerProcess(arguments, log))
        for step in range(steps):
            for process in processes.values():
                process.train_step()
            if step % 10 == 9:
                print(f"{step + 1} of {steps} train_steps", flush=True)
        return {peer: process.answer()["losses"] for peer, process in processes.items()}


def _differences(a: list[float], b: list[float]) -> dict[str, float]:
    """Return mean, mean absolute and largest absolute difference of losses."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    sizes = [abs(difference) for difference in differences]
    return {
        "mean_signed": round(statistics.mean(differences), 5),
        "mean": round(statistics.mean(sizes), 5),
        "largest": round(max(sizes), 5),
    }


if __name__ == "__main__":
    main()
