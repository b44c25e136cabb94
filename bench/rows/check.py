"""Time of a check of a dataset beside plain batched tokenization.

`python -m bench.rows.check MODEL_FOLDER [ROWS]` makes ROWS conversations, checks them as `gemtune data check` does,
with the time to load the tokenizer taken off, and then tokenizes the same texts with nothing but the library's own
batches. Rounds alternate, and the median counts.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gemtune.checks.task import CheckTask, LocalSource
from gemtune.request.spec import Spec
from trainer.check.run import Check, run
from trainer.process.thread_waiting import limit_spinning

ROUNDS = 3
WORDS = [
    "please",
    "refund",
    "the",
    "order",
    "that",
    "came",
    "late",
    "and",
    "change",
    "my",
    "address",
    "number",
    "invoice",
    "account",
    "thanks",
    "today",
    "help",
]


def main() -> None:
    """Print seconds of both, and their ratio."""
    limit_spinning()
    model, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        rows = _write_rows(Path(folder) / "rows.jsonl", count)
        texts = [f"{row['messages'][0]['content']} {row['messages'][1]['content']}" for row in rows]
        tokenizer, load_seconds = _load(model)
        checks: list[float] = []
        alone: list[float] = []
        for round_number in range(ROUNDS):
            checks.append(_check(model, Path(folder), round_number) - load_seconds)
            alone.append(_seconds(lambda: tokenizer(texts)))
    check, plain = statistics.median(checks), statistics.median(alone)
    print(f"{count} rows: check {check:.2f} s, tokenizers alone {plain:.2f} s, ratio {check / plain:.2f}")


def _check(model: Path, folder: Path, round_number: int) -> float:
    """Return the seconds of a check, its tokenizer included."""
    output = folder / f"output-{round_number}"
    work = output / "work"
    work.mkdir(parents=True)
    config = {"base_model_id": str(model)}
    spec = Spec.model_validate({"processed_dataset_id": "rows", "training_config": config})
    task = CheckTask(spec=spec, source=LocalSource(train=str(folder / "rows.jsonl")))

    def no_buckets() -> None:
        raise AssertionError("local files need no bucket")

    check = Check(task, output, work, lambda name: str(output / name), no_buckets, lambda: None)  # type: ignore[arg-type]
    started = time.perf_counter()
    report = run(check)
    seconds = time.perf_counter() - started
    if not report.trains:
        raise RuntimeError(f"the rows are refused: {report.error}")
    return seconds


def _load(model: Path) -> tuple[Callable[[list[str]], object], float]:
    """Return the library's batched tokenization, and the seconds to load it."""
    from tokenizers import Tokenizer

    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        seconds.append(time.perf_counter() - started)
    return lambda texts: tokenizer.encode_batch(texts, add_special_tokens=False), min(seconds)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _write_rows(path: Path, count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Write conversations of about a hundred tokens."""
    generator = random.Random(0)
    rows = []
    for number in range(count):
        question = f"{' '.join(generator.choices(WORDS, k=30))} {number}"
        answer = " ".join(generator.choices(WORDS, k=50))
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
