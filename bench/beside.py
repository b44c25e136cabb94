"""`python -m bench.beside`: operations of a tiny training, alone on a machine and beside a process that computes too.

Each measurement is a process of its own, with OpenMP's threads waiting for each other as they do by default, or as
`trainer.process.thread_waiting` lets them. They take turns. The other process has the default. Writes
`bench/results.json`.
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
# Milliseconds of five operations on tensors that PyTorch divides among threads; endlessly, when no count is given.
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
    by_default = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    briefly = dict(by_default)
    limit_spinning(briefly)
    ways = {"by default": by_default, "briefly": briefly}
    alone = _in_turns(ways)
    with _another(by_default):
        beside = _in_turns(ways)
    found = {way: {"alone_ms": round(alone[way], 2), "beside_ms": round(beside[way], 2)} for way in ways}
    for way, measured in found.items():
        print(f"waiting {way:12} alone {measured['alone_ms']:7.2f} ms   beside another {measured['beside_ms']:7.2f} ms")
    print(f"briefly is {alone['by default'] / alone['briefly']:.2f} times as fast alone, ", end="")
    print(f"{beside['by default'] / beside['briefly']:.1f} times beside another")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(kept | {"beside": found | {"machine": machine(), "at": today()}}, indent=1) + "\n")


def _in_turns(ways: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Medians, in milliseconds."""
    measured: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, environment in ways.items():
            command = [sys.executable, "-c", PROGRAM, "100"]
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            measured[way].append(float(said.split()[-1]))
    return {way: statistics.median(found) for way, found in measured.items()}


@contextmanager
def _another(environment: Mapping[str, str]) -> Iterator[None]:
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
