"""`python -m bench.overhead`: what a tiny job's three steps spend outside loading the model and training it.

Each step runs as the process that the workflow starts, with everything around it: Python, imports, the record, files,
the export, and its certificate, whose process counts to the export. `probe` says what is counted as what;
importing is overhead wherever it happens, and so is everything that has no other name. Of some runs the median of each
figure is printed, in seconds and in seconds of the processor, which what else the machine does disturbs less.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.overhead.probe import FOLDER
from gemtune.jobs.status import Step

RUNS = 5
WORK = ("loading", "training", "evaluating", "comparing")
COLUMNS = ("all", "importing", *WORK, "the rest")

# By column: seconds, and seconds of the processor.
Spent = dict[str, tuple[float, float]]


def main() -> None:
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
        and_comparing = statistics.median(_sum(run, index, ("loading", "training", "evaluating")) for run in runs)
        print(f"\noutside loading, training and evaluating: {outside:.2f}, with comparing {and_comparing:.2f}\n")


def _sum(run: dict[Step, Spent], index: int, without: tuple[str, ...]) -> float:
    return sum(spent["all"][index] - sum(spent[kind][index] for kind in without) for spent in run.values())


def _job(home: Path, base: Path) -> dict[Step, Spent]:
    from tests.trainer.conftest import Bench

    bench = Bench(home, base)
    bench.job_id = bench.world.submit(training=bench.training)
    bench.services.dispatch.launch(bench.job_id)
    bench.services.control.claim(bench.job_id, bench.claim)
    return {step: _step(bench.job_id, step, bench.services.settings.home) for step in Step}


def _step(job_id: str, step: Step, home: Path) -> Spent:
    command = [sys.executable, "-m", "bench.overhead.probe", step, "--job-id", job_id, "--launch", "1"]
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GEMTUNE_HOME": str(home), FOLDER: folder}
        began = time.perf_counter(), _processor_seconds()
        subprocess.run([*command, "--execution", "e"], capture_output=True, check=True, env=env)
        whole = time.perf_counter() - began[0], _processor_seconds() - began[1]
        counted: list[dict[str, list[float]]] = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    kinds = ("importing", *WORK)

    def of_all(kind: str, unit: int) -> float:
        return sum(each.get(kind, [0.0, 0.0])[unit] for each in counted)

    spent = {kind: (of_all(kind, 0), of_all(kind, 1)) for kind in kinds}
    rest = (whole[0] - sum(of_kind[0] for of_kind in spent.values()),
            whole[1] - sum(of_kind[1] for of_kind in spent.values()))  # fmt: skip
    return {"all": whole, "the rest": rest, **spent}


def _processor_seconds() -> float:
    """Of all processes that have ended, and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
