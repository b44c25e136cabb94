"""Benchmark of evaluation's memory, by metrics and by number of rows.

`python -m bench.evaluation`. Gemma 3 270M in bfloat16 with an adapter evaluates batches of 8 rows of 48 to 96 tokens,
all of them trained. The largest batch comes first, so that every number of rows includes it. Each number is measured in
a process of its own: the peak of its resident memory during evaluation, above what it had before. That includes the
base model's weights, 540 MB, which are mapped and read on first use. The metrics are printed too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.train_peers import own_trainer
from bench.train_rows import Rows, Shape, rows

if TYPE_CHECKING:
    from transformers import Trainer

SIZES = (16, 64, 256, 1024)
SHAPE = Shape(rows_per_step=8, least=48, most=96, trained=1.0)
BOTH = ["accuracy", "perplexity"]
WAYS: dict[str, dict[str, Any]] = {
    "loss only": {"evaluation_metrics": []},
    "accuracy and perplexity, batch_eval_metrics true": {"evaluation_metrics": BOTH, "batch_eval_metrics": True},
    "accuracy and perplexity, batch_eval_metrics false": {"evaluation_metrics": BOTH, "batch_eval_metrics": False},
}


def main() -> None:
    """Print a table of all measurements; with arguments, make one of them."""
    if len(sys.argv) > 1:
        print(json.dumps(_evaluate(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
        return
    from examples.build_base_model import build

    folder = build()
    print(f"| MB above the beginning | {' | '.join(f'{size} rows' for size in SIZES)} | metrics of the last |")
    print(f"|---|{'---|' * (len(SIZES) + 1)}")
    for way in WAYS:
        results = [_run_process(way, size, folder) for size in SIZES]
        metrics = ", ".join(f"{name} {value:.6g}" for name, value in results[-1]["metrics"].items())
        peaks = " | ".join(f"{result['mb']:.0f}" for result in results)
        print(f"| {way} | {peaks} | {metrics} |", flush=True)


def _run_process(way: str, size: int, folder: Path) -> Any:
    """Return the result of `_evaluate` in a process of its own."""
    command = [sys.executable, "-m", "bench.evaluation", way, str(size), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr[-4000:])
    return json.loads(ran.stdout.splitlines()[-1])


def _evaluate(way: str, size: int, folder: Path) -> dict[str, Any]:
    """Evaluate `size` rows; return peak memory in MB and the metrics."""
    held_out = _largest_first(rows(SHAPE, folder / "tokenizer.json", max(SIZES) // SHAPE.rows_per_step))[:size]
    trainer = _trainer(folder, held_out, WAYS[way])
    with _peak() as peak:
        logged = trainer.evaluate()
    names = [name for name in ("loss", "accuracy", "perplexity") if logged.get(f"eval_{name}") is not None]
    return {"mb": peak[0], "metrics": {name: logged[f"eval_{name}"] for name in names}}


def _largest_first(held_out: Rows) -> Rows:
    starts = range(0, len(held_out), SHAPE.rows_per_step)
    batches = [held_out[start : start + SHAPE.rows_per_step] for start in starts]
    largest = max(batches, key=lambda batch: sum(len(row["input_ids"]) for row in batch))
    batches.remove(largest)
    return [row for batch in [largest, *batches] for row in batch]


def _trainer(folder: Path, held_out: Rows, settings: dict[str, Any]) -> Trainer:
    from gemtune.request.spec import Spec
    from gemtune.request.training_config import TrainingConfig

    config = TrainingConfig(
        base_model_id=str(folder), batch_size=SHAPE.rows_per_step, eval_strategy="epoch", max_steps=1, **settings
    )
    return own_trainer(folder, Spec(processed_dataset_id="bench", training_config=config), held_out, evaluates=True)


@contextmanager
def _peak() -> Iterator[list[float]]:
    """Yield a list whose item is the peak resident memory of the block.

    It is in MB above the beginning's, sampled a hundred times per second.
    """
    peak, over = [0.0], threading.Event()
    before = _resident()

    def sample() -> None:
        while not over.wait(0.01):
            peak[0] = max(peak[0], _resident() - before)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        over.set()
        sampler.join()


def _resident() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
