"""Time of a check of a dataset beside plain batched tokenization.

`python -m bench.rows.check MODEL_FOLDER [ROWS]` makes ROWS conversations, checks them as `gemtune data check` does,
with the time to load the tokenizer taken off, and then tokenizes the same texts with nothing but the library's own
batches. Rounds alternate, and medians count: of elapsed time, and of processor time, which other work on the machine
changes less. The main thread's part of it is the shortest time that a check can take.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gemtune.checks.report import CheckReport
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


class Seconds(NamedTuple):
    """Time of a piece of work, in seconds.

    It is elapsed time, that of all processors, and that of the main thread.
    """

    elapsed: float
    processor: float
    main_thread: float

    def minus(self, other: Seconds) -> Seconds:
        """Return the time without another's."""
        return Seconds(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def main() -> None:
    """Print seconds of both, and their ratio."""
    limit_spinning()
    model, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        rows = _write_rows(Path(folder) / "rows.jsonl", count)
        texts = [f"{row['messages'][0]['content']} {row['messages'][1]['content']}" for row in rows]
        checks: list[Seconds] = []
        alone: list[Seconds] = []
        for round_number in range(ROUNDS):
            tokenizer, loading = _load(model)
            checks.append(_check(model, Path(folder), round_number).minus(loading))
            alone.append(_seconds(partial(tokenizer, texts)))
    check, plain = _median(checks), _median(alone)
    print(f"{count} rows                elapsed   processor   main thread")
    for name, seconds in (("check", check), ("tokenizers alone", plain)):
        print(f"{name:20s} {seconds.elapsed:11.2f} s {seconds.processor:9.2f} s {seconds.main_thread:11.2f} s")
    print(f"ratio {check.elapsed / plain.elapsed:.2f}, of processor time {check.processor / plain.processor:.2f}")


def _check(model: Path, folder: Path, round_number: int) -> Seconds:
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
    reports: list[CheckReport] = []
    seconds = _seconds(lambda: reports.append(run(check)))
    if not reports[0].trains:
        raise RuntimeError(f"the rows are refused: {reports[0].error}")
    return seconds


def _load(model: Path) -> tuple[Callable[[list[str]], object], Seconds]:
    """Return the library's batched tokenization, and the time to load it."""
    from tokenizers import Tokenizer

    loaded: list[Tokenizer] = []
    seconds = _seconds(lambda: loaded.append(Tokenizer.from_file(str(model / "tokenizer.json"))))
    return lambda texts: loaded[0].encode_batch(texts, add_special_tokens=False), seconds


def _median(rounds: list[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(each) for each in zip(*rounds, strict=True)))


def _seconds(work: Callable[[], object]) -> Seconds:
    started = Seconds(time.perf_counter(), time.process_time(), time.thread_time())
    work()
    return Seconds(time.perf_counter(), time.process_time(), time.thread_time()).minus(started)


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
