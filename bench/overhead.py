"""`python -m bench.overhead`: what a tiny job's three steps spend outside loading the model and training it.

Each step runs as the process that the workflow starts, with everything around it: Python, imports, the record, files,
the export and its certificate. Loading and training are timed inside the train step, evaluations included. The smallest
of some runs is printed: what disturbs a run only adds to it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gemtune.job import Step

RUNS = 3
# Runs in the process before the trainer does, and prints what it timed when that ends.
TIMED = """
import atexit, functools, json, sys, time
from gemtune.job import Step
spent = {}
def timed(owner, name):
    original = getattr(owner, name)
    @functools.wraps(original)
    def call(*args, **kwargs):
        began = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
    setattr(owner, name, call)
if sys.argv[1] == Step.TRAIN:
    from trainer.engines import huggingface
    from trainer.steps import train
    timed(huggingface, "load")
    timed(train, "_baseline")
    make = train._make
    def made(*args, **kwargs):
        trainer = make(*args, **kwargs)
        timed(trainer, "train")
        timed(trainer, "figures")
        return trainer
    train._make = made
atexit.register(lambda: print("SPENT", json.dumps(spent), flush=True))
from trainer.__main__ import main
sys.exit(main())
"""


def main() -> None:
    from tests import tiny_gemma

    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_gemma.build(Path(folder) / "tiny")
        runs = [_job(Path(folder) / f"home{number}", tiny) for number in range(RUNS)]
    print("| step | seconds | of them loading and training |\n|---|---|---|")
    best = {step: min((run[step] for run in runs), key=lambda found: found[0] - found[1]) for step in Step}
    for step, (seconds, inside) in best.items():
        print(f"| {step} | {seconds:.2f} | {inside:.2f} |")
    print(f"\noutside loading and training: {sum(seconds - inside for seconds, inside in best.values()):.2f} s")


def _job(home: Path, base: Path) -> dict[Step, tuple[float, float]]:
    """Seconds of each step's process, and those of them that went into loading and training."""
    from tests.trainer.conftest import Bench

    bench = Bench(home, base)
    bench.job_id = bench.world.submit(training=bench.training)
    bench.services.dispatch.launch(bench.job_id)
    bench.services.control.claim(bench.job_id, bench.claim)
    return {step: _step(bench.job_id, step, bench.services.settings.home) for step in Step}


def _step(job_id: str, step: Step, home: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", TIMED, step, "--job-id", job_id, "--launch", "1", "--execution", "e"]
    began = time.perf_counter()
    ran = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"GEMTUNE_HOME": str(home)}
    )
    seconds = time.perf_counter() - began
    (said,) = (line for line in ran.stdout.splitlines() if line.startswith("SPENT"))
    return seconds, sum(json.loads(said.removeprefix("SPENT")).values())


if __name__ == "__main__":
    main()
