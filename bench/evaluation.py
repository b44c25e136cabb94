"""`python -m bench.evaluation`: what evaluating takes of memory, by what is asked for and by how many rows there are.

Gemma 3 270M in bfloat16 with an adapter, batches of 8 rows of 48 to 96 tokens, all trained on; the largest batch comes
first, so that it is among few rows as among many. Each figure is of a process of its own: the peak of its resident
memory while it evaluates, above what it had before; and the figures. The base model's weights, 540 MB that are read
when they are first used, are among it.
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
SHAPE = Shape(rows_a_step=8, least=48, most=96, trained=1.0)
BOTH = ["accuracy", "perplexity"]
WAYS: dict[str, dict[str, Any]] = {
    "loss only": {"evaluation_metrics": []},
    "accuracy and perplexity, batch_eval_metrics true": {"evaluation_metrics": BOTH, "batch_eval_metrics": True},
    "accuracy and perplexity, batch_eval_metrics false": {"evaluation_metrics": BOTH, "batch_eval_metrics": False},
}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(_evaluated(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
        return
    from examples.build_base_model import build

    folder = build()
    print(f"| MB above what was there | {' | '.join(f'{size} rows' for size in SIZES)} | figures of the last |")
    print(f"|---|{'---|' * (len(SIZES) + 1)}")
    for way in WAYS:
        found = [_in_a_process(way, size, folder) for size in SIZES]
        figures = ", ".join(f"{name} {value:.6g}" for name, value in found[-1]["figures"].items())
        peaks = " | ".join(f"{one['mb']:.0f}" for one in found)
        print(f"| {way} | {peaks} | {figures} |", flush=True)


def _in_a_process(way: str, size: int, folder: Path) -> Any:
    command = [sys.executable, "-m", "bench.evaluation", way, str(size), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr[-4000:])
    return json.loads(ran.stdout.splitlines()[-1])


def _evaluated(way: str, size: int, folder: Path) -> dict[str, Any]:
    given = _largest_first(rows(SHAPE, folder / "tokenizer.json", max(SIZES) // SHAPE.rows_a_step))[:size]
    trainer = _gemtune(folder, given, WAYS[way])
    with _peak() as peak:
        found = trainer.evaluate()
    figures = {name: found[f"eval_{name}"] for name in ("loss", "accuracy", "perplexity") if found.get(f"eval_{name}")}
    return {"mb": peak[0], "figures": figures}


def _largest_first(given: Rows) -> Rows:
    batches = [given[start : start + SHAPE.rows_a_step] for start in range(0, len(given), SHAPE.rows_a_step)]
    largest = max(batches, key=lambda batch: sum(len(row["input_ids"]) for row in batch))
    batches.remove(largest)
    return [row for batch in [largest, *batches] for row in batch]


def _gemtune(folder: Path, given: Rows, asked: dict[str, Any]) -> Trainer:
    from gemtune.request.spec import Spec, TrainingConfig

    config = TrainingConfig(
        base_model_id=str(folder), batch_size=SHAPE.rows_a_step, eval_strategy="epoch", max_steps=1, **asked
    )
    return own_trainer(folder, Spec(processed_dataset_id="bench", training_config=config), given, evaluates=True)


@contextmanager
def _peak() -> Iterator[list[float]]:
    """The most resident memory, in MB above the beginning's, looked at a hundred times a second."""
    found, over = [0.0], threading.Event()
    before = _resident()

    def look() -> None:
        while not over.wait(0.01):
            found[0] = max(found[0], _resident() - before)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        over.set()
        looking.join()


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
