"""Time and memory of checks of large datasets.

`python -m bench.rows.large MODEL_FOLDER text 1000 FOLDER [ENDING]` checks a tenth of 1000 MB of conversations, and then
all of them, each by `gemtune data check` in a process of its own. ENDING is the kind of file: `jsonl`, `csv`, or
`parquet`, the latter two with a prompt and a completion per row. With `pictures 100000` it is as many rows with a
picture each, and the model one that sees; with `long 50` a row of 50 MB between two short ones. If memory is constant,
the peak of ten times as many rows is hardly higher. FOLDER gets the rows, and loses them again.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bench.rows.check import WORDS

MB = 1_000_000
Rows = Iterator[dict[str, Any]]
COMMAND = [sys.executable, "-c", "from gemtune.cli import main; main()", "data", "check"]


def main() -> None:
    """Print rows, bytes, seconds and peak memory of each check."""
    model, kind, amount, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    ending = sys.argv[5] if len(sys.argv) > 5 else "jsonl"
    write, options = KINDS[kind]
    print(f"{'rows':>9} {'MB':>8} {'seconds':>8} {'processor s':>12} {'peak MB':>8} {'used':>9}")
    for share in (10, 1) if kind != "long" else (1,):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            path = Path(work) / f"train.{ending}"
            count = WRITERS[ending](path, write(amount // share))
            _print_check(path, count, [*COMMAND, str(path), "--model", model, *options, "--output", f"{work}/output"])


def _write_lines(path: Path, rows: Rows) -> int:
    with path.open("w", encoding="utf-8") as file:
        return sum(1 for row in rows if file.write(f"{json.dumps(row)}\n"))


def _write_table(path: Path, rows: Rows) -> int:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "completion"))
        return sum(1 for row in rows if writer.writerow([turn["content"] for turn in row["messages"]]))


def _write_parquet(path: Path, rows: Rows) -> int:
    """Write groups of 10,000 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = pa.schema([("prompt", pa.string()), ("completion", pa.string())]), 0
    with pq.ParquetWriter(path, schema) as writer:
        while group := [[turn["content"] for turn in row["messages"]] for row in islice(rows, 10_000)]:
            prompts, answers = zip(*group, strict=True)
            writer.write_table(pa.table([prompts, answers], schema=schema))
            count += len(group)
    return count


WRITERS: dict[str, Callable[[Path, Rows], int]] = {
    "jsonl": _write_lines,
    "csv": _write_table,
    "parquet": _write_parquet,
}


def _print_check(path: Path, count: int, command: list[str]) -> None:
    """Run a check, and print what it took."""
    started = time.perf_counter()
    with subprocess.Popen([*command, "--json", "--samples", "0"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # of the command and of the process that it waits for
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    used = json.loads(answer)["train"]["used"]
    processor, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / MB
    size = path.stat().st_size / MB
    print(f"{count:9,} {size:8,.0f} {seconds:8.1f} {processor:12.1f} {peak:8,.0f} {used:9,}", flush=True)


def conversations(megabytes: int) -> Rows:
    """Yield conversations of about 550 bytes."""
    generator, left, number = random.Random(0), megabytes * MB, 0
    while left > 0:
        question = f"{' '.join(generator.choices(WORDS, k=30))} {number}"
        answer = " ".join(generator.choices(WORDS, k=50))
        row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        yield row
        left -= len(json.dumps(row)) + 1
        number += 1


def pictures(count: int) -> Rows:
    """Yield rows with a picture each, none of which is another one's."""
    from PIL import Image

    generator = random.Random(0)
    for number in range(count):
        written = io.BytesIO()
        Image.frombytes("RGB", (64, 48), generator.randbytes(64 * 48 * 3)).save(written, "jpeg")
        picture = {"type": "image", "image": {"bytes": base64.b64encode(written.getvalue()).decode()}}
        question = [picture, {"type": "text", "text": f"Which number is {number}?"}]
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": str(number)}]}


def one_long(megabytes: int) -> Rows:
    """Yield a row of so many megabytes, between short ones."""
    for length in (2, megabytes * MB, 2):
        yield {"prompt": "Hi", "completion": "a" * length}


KINDS: dict[str, tuple[Callable[[int], Rows], list[str]]] = {
    "text": (conversations, []),
    "pictures": (pictures, ["--set", "modality=vision"]),
    "long": (one_long, []),
}

if __name__ == "__main__":
    main()
