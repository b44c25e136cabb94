"""Benchmark of the overhead of a tiny job's three steps.

`python -m bench.overhead`. Overhead is everything except loading the model and training it. Each step runs as the
process that the workflow starts, with everything around it: Python, imports, the record, files, the export, and its
certificate, whose process counts as part of the export. `probe` classifies the time; imports are overhead wherever they
happen. Prints the medians of some runs, in seconds and in seconds of processor time, which other processes on the
machine disturb less.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.overhead.probe import FOLDER
from bench.overhead.processor import processor_seconds
from gemtune.jobs.status import Step

RUNS = 5
WORK = ("loading", "training", "evaluating", "comparing")
COLUMNS = ("all", "importing", *WORK, "the rest")

# By column: seconds, and seconds of processor time.
Spent = dict[str, tuple[float, float]]


def main() -> None:
    """Run some jobs and print the medians of their steps."""
    from tests import tiny_gemma

    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_gemma.build(Path(folder) / "tiny")
        runs = [_job(Path(folder) / f"home{number}", tiny) for number in range(RUNS)]
    for index, unit in enumerate(("seconds", "processor seconds")):
        print(f"| {unit} | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
        for step in Step:
            medians = (statistics.median(run[step][column][index] for run in runs) for column in COLUMNS)
            print(f"| {step} | {' | '.join(f'{median:.2f}' for median in medians)} |")
        outside = statistics.median(_sum(run, index, WORK) for run in runs)
        with_comparing = statistics.median(_sum(run, index, ("loading", "training", "evaluating")) for run in runs)
        print(f"\noutside loading, training and evaluating: {outside:.2f}, with comparing {with_comparing:.2f}\n")


def _sum(run: dict[Step, Spent], index: int, without: tuple[str, ...]) -> float:
    """Sum the time of all steps, without some columns."""
    return sum(spent["all"][index] - sum(spent[kind][index] for kind in without) for spent in run.values())


def _job(home: Path, base: Path) -> dict[Step, Spent]:
    """Run the three steps of a new job."""
    from tests.trainer.conftest import Bench

    bench = Bench(home, base)
    bench.job_id = bench.world.submit(training=bench.training)
    bench.services.dispatch.launch(bench.job_id)
    bench.services.control.claim(bench.job_id, bench.claim)
    return {step: _step(bench.job_id, step, bench.services.settings.home) for step in Step}


def _step(job_id: str, step: Step, home: Path) -> Spent:
    """Run one step in a process with `probe`, and add up what it counted."""
    command = [sys.executable, "-m", "bench.overhead.probe", step, "--job-id", job_id, "--launch", "1"]
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GEMTUNE_HOME": str(home), FOLDER: folder}
        began = time.perf_counter(), processor_seconds()
        subprocess.run([*command, "--execution", "e"], capture_output=True, check=True, env=env)
        whole = time.perf_counter() - began[0], processor_seconds() - began[1]
        counted: list[dict[str, list[float]]] = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    kinds = ("importing", *WORK)

    def of_all(kind: str, unit: int) -> float:
        return sum(each.get(kind, [0.0, 0.0])[unit] for each in counted)

    spent = {kind: (of_all(kind, 0), of_all(kind, 1)) for kind in kinds}
    rest = (
        whole[0] - sum(seconds for seconds, _ in spent.values()),
        whole[1] - sum(processor_seconds for _, processor_seconds in spent.values()),
    )
    return {"all": whole, "the rest": rest, **spent}


if __name__ == "__main__":
    main()
