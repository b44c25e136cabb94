"""Benchmark of a tiny training's operations on an idle and on a busy machine.

`python -m bench.contention`. Each measurement is a process of its own, in which OpenMP's threads wait for each other as
they do by default, or as `trainer.process.thread_waiting` sets it, alternately. On the busy machine another process
computes at the same time, with the default. Writes `bench/results.json`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bench.train import RESULTS, machine, today
from trainer.process.thread_waiting import limit_spinning

ROUNDS = 5
# Prints the milliseconds of five operations that PyTorch divides among threads; without a count it runs forever.
PROGRAM = """
import sys, time
import torch
x, weight = torch.ones(300, 1024), torch.ones(1024, 64)
def operations():
    doubled = x * 2
    doubled.exp().sum(1)
    torch.nn.functional.gelu(doubled) @ weight
operations()
print("ready", flush=True)
while len(sys.argv) == 1:
    operations()
began = time.perf_counter()
for _ in range(int(sys.argv[1])):
    operations()
print((time.perf_counter() - began) / int(sys.argv[1]) * 1000)
"""


def main() -> None:
    """Measure both ways of waiting, on an idle and on a busy machine."""
    by_default = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    briefly = dict(by_default)
    limit_spinning(briefly)
    ways = {"by default": by_default, "briefly": briefly}
    idle = _medians(ways)
    with _other_process(by_default):
        busy = _medians(ways)
    results = {way: {"alone_ms": round(idle[way], 2), "beside_ms": round(busy[way], 2)} for way in ways}
    for way in ways:
        print(f"waiting {way:12} idle machine {idle[way]:7.2f} ms   busy machine {busy[way]:7.2f} ms")
    print(f"briefly is {idle['by default'] / idle['briefly']:.2f} times as fast on an idle machine, ", end="")
    print(f"{busy['by default'] / busy['briefly']:.1f} times on a busy one")
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    entry = results | {"machine": machine(), "at": today()}
    RESULTS.write_text(json.dumps(earlier | {"beside": entry}, indent=1) + "\n")


def _medians(ways: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Return the median milliseconds of each way, measured alternately.

    ways: environment variables by name of the way.
    """
    samples: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, environment in ways.items():
            command = [sys.executable, "-c", PROGRAM, "100"]
            output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            samples[way].append(float(output.split()[-1]))
    return {way: statistics.median(milliseconds) for way, milliseconds in samples.items()}


@contextmanager
def _other_process(environment: Mapping[str, str]) -> Iterator[None]:
    """Run the operations in another process while the block runs."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
