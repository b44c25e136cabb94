"""Benchmark on one GPU, in twelve minutes.

`python -m bench.gpu [--minutes 12]`. First it runs `tests/gpu`, and times the implementations of attention. Then it
trains models of real shapes with random weights, all of them by LoRA and then by QLoRA: this project, TRL with Liger's
kernels and, where it is installed, unsloth, one after the other in processes of their own, on the same rows and with
the same adapter. Where Liger does not know a model, TRL runs without.

It prints tokens per second, peak memory and losses, and ratios of this project to each peer. Each result is written as
soon as it is known. A part that fails, or for which no time is left, is noted with its reason, and the next one runs.

`--dry-run` runs the same parts on a CPU with tiny models, and without `tests/gpu`: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.gpu import processes
from bench.gpu.models import GIB, SHAPES
from bench.gpu.peers import OURS, TRL, TRL_LIGER, UNSLOTH, name_of
from bench.gpu.processes import Deadline
from bench.train import Measurement, PeerEnded, PeerProcess, today
from bench.train_rows import SHAPES as ROW_SHAPES
from bench.train_rows import Rows, random_rows
from trainer.export import versions

RESULTS = Path(__file__).parents[1] / "gpu_results.json"
# Seconds that a part may take.
TEST_SECONDS, ATTENTION_SECONDS, BUILD_SECONDS, PEER_SECONDS = 180, 60, 120, 90
# Train_steps left out: kernels are compiled and tuned in them.
WARM_UP_STEPS = 3
METHODS = ("LoRA", "QLoRA")


class Results:
    """The results so far, written to a file after each part."""

    def __init__(self, file: Path):
        self._file = file
        self.values: dict[str, Any] = {"at": today(), "models": {}}

    def write(self) -> None:
        """Write the file anew."""
        self._file.write_text(json.dumps(self.values, indent=1) + "\n")


class PartFailed(Exception):
    """Raised when a part of the benchmark fails; its text is the reason."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all parts for which there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12, help="time for everything")
    parser.add_argument(
        "--steps", type=int, default=12, help=f"train_steps of a run, the first {WARM_UP_STEPS} left out"
    )
    parser.add_argument("--max-gib", type=float, default=12, help="size of a model's weights; deeper ones lose layers")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--dry-run", action="store_true", help="tiny models on a CPU")
    options = parser.parse_args(arguments)
    if options.steps <= WARM_UP_STEPS:
        parser.error(f"--steps must be larger than {WARM_UP_STEPS}")
    deadline, results = Deadline(60 * options.minutes), Results(options.results)
    results.values["versions"] = versions.installed()
    if not options.dry_run:
        results.values["tests"] = _run_tests(deadline)
        results.write()
    results.values["attention"] = _measure_attention("cpu" if options.dry_run else "cuda", deadline)
    results.write()
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods:
            for name in options.models:
                if method in SHAPES[name].methods:
                    _measure_model(name, method, Path(folder) / name, options, deadline, results)
    print(f"written to {options.results}")


def _run_tests(deadline: Deadline) -> dict[str, Any]:
    """Run `tests/gpu` and return how it went."""
    seconds = deadline.seconds_for(TEST_SECONDS)
    if seconds is None:
        return {"failed": "no time was left"}
    options = ["-v", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore"]
    ended = processes.run([sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", *options], seconds)
    lines = [line for line in ended.output.splitlines() if line.strip()]
    print("\n".join(lines[-40:]), flush=True)
    if not lines:
        return {"failed": _last_line(ended.errors)}
    late = {} if ended.code is not None else {"failed": f"took longer than {seconds:.0f} s"}
    # Each test has a line, so that it is known which ones ran before the time was up.
    return late | {"exit_code": ended.code, "lines": [line for line in lines if "::" in line], "end": lines[-1]}


def _measure_attention(device: str, deadline: Deadline) -> dict[str, Any]:
    """Time the implementations of attention, and return it by kind of layer.

    If the time was up before the end, the measurements until then are returned.
    """
    seconds = deadline.seconds_for(ATTENTION_SECONDS)
    if seconds is None:
        return {"failed": "no time was left"}
    ended = processes.run([sys.executable, "-m", "bench.gpu.attention", device], seconds)
    figures = {}
    for line in ended.output.splitlines():
        with suppress(json.JSONDecodeError):  # the last line may be cut, and libraries print, too
            measured = json.loads(line)
            figures[measured.pop("layers")] = measured
            print(line, flush=True)
    if ended.code == 0:
        return figures
    reason = f"took longer than {seconds:.0f} s" if ended.code is None else _last_line(ended.errors)
    return figures | {"failed": reason}


def _measure_model(
    name: str, method: str, folder: Path, options: argparse.Namespace, deadline: Deadline, results: Results
) -> None:
    """Train a model by a method with all peers.

    folder: of the model, which is built if it does not exist; it is deleted after the last method.
    """
    entry: dict[str, Any] = results.values["models"].setdefault(name, {})
    if "failed" in entry:
        return
    if not folder.exists():
        try:
            built = _build(name, folder, options, deadline)
        except PartFailed as failed:
            shutil.rmtree(folder, ignore_errors=True)
            entry["failed"] = str(failed)
            print(f"\n{name}: {failed}", flush=True)
            results.write()
            return
        results.values |= {"card": built["card"], "torch": built["torch"]}
        entry |= {"layers": f"{built['layers']} of {built['all_layers']}", "vocabulary": built["vocabulary"]}
    shape = "dry" if options.dry_run else "gpu"
    rows = random_rows(ROW_SHAPES[shape], entry["vocabulary"], options.steps)
    print(f"\n{name}, {method}, {entry['layers']} layers, on {results.values['card']}", flush=True)
    entry[method] = {}
    measured: dict[str, Measurement] = {}
    for library in _libraries():
        if library == TRL and TRL_LIGER in measured:
            continue
        try:
            measured[library] = run = _measure(name_of(library, method), shape, folder, rows, deadline)
            entry[method][library] = _summary(run)
        except PartFailed as failed:
            entry[method][library] = {"failed": str(failed)}
        print(f"{library:16} {json.dumps(entry[method][library])}", flush=True)
        results.write()
    entry[method]["ratios"] = _ratios(measured)
    print(f"{'ratios':16} {json.dumps(entry[method]['ratios'])}", flush=True)
    results.write()
    if method == [each for each in options.methods if each in SHAPES[name].methods][-1]:
        shutil.rmtree(folder)


def _libraries() -> list[str]:
    """Return the peers to run, in order. TRL alone runs if Liger fails."""
    has_liger, has_unsloth = (importlib.util.find_spec(name) is not None for name in ("liger_kernel", "unsloth"))
    return [OURS, *([TRL_LIGER] if has_liger else []), TRL, *([UNSLOTH] if has_unsloth else [])]


def _build(name: str, folder: Path, options: argparse.Namespace, deadline: Deadline) -> dict[str, Any]:
    """Build a model in a process of its own, which frees the GPU when it ends.

    Raises PartFailed.
    """
    seconds = deadline.seconds_for(BUILD_SECONDS)
    if seconds is None:
        raise PartFailed("no time was left")
    device, max_bytes = ("cpu" if options.dry_run else "cuda"), int(options.max_gib * GIB)
    command = [sys.executable, "-m", "bench.gpu.models", name, str(folder), str(max_bytes), device]
    ended = processes.run(command, seconds)
    if ended.code is None:
        raise PartFailed(f"building it took longer than {seconds:.0f} s")
    if ended.code != 0:
        raise PartFailed(f"it cannot be built: {_last_line(ended.errors)}")
    built: dict[str, Any] = json.loads(ended.output.splitlines()[-1])
    return built


def _measure(peer: str, shape: str, folder: Path, rows: Rows, deadline: Deadline) -> Measurement:
    """Train with one peer. Raises PartFailed."""
    seconds = deadline.seconds_for(PEER_SECONDS)
    if seconds is None:
        raise PartFailed("no time was left")
    per_step = ROW_SHAPES[shape].rows_per_step
    steps = len(rows) // per_step
    tokens = [sum(len(row["input_ids"]) for row in rows[step * per_step :][:per_step]) for step in range(steps)]
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryFile("w+") as log:
        file = Path(work) / "rows.json"
        file.write_text(json.dumps(rows))
        arguments = [peer, shape, str(folder), str(steps), str(file)]
        began = time.monotonic()
        try:
            with PeerProcess(arguments, log, module="bench.gpu.peers", seconds=seconds) as process:
                times = [process.train_step() for _ in tokens]
                answer = process.answer()
        except PeerEnded as ended:
            late = time.monotonic() - began >= seconds
            raise PartFailed(f"took longer than {seconds:.0f} s" if late else _last_line(ended.log)) from None
    rates = [count / step for count, step in zip(tokens, times, strict=True)]
    return Measurement(rates[WARM_UP_STEPS:], answer["peak_mb"], process.seconds_before, times[0], answer["losses"])


def _last_line(log: str) -> str:
    """Return the last line of a log, where Python writes an error's message."""
    lines = log.strip().splitlines()
    return lines[-1][:300] if lines else "it ended without a word"


def _summary(run: Measurement) -> dict[str, Any]:
    """Return one peer's figures, as the results have them."""
    return {
        "tokens_per_second": round(statistics.median(run.rates), 1),
        "peak_mb": round(run.peak_mb),
        "seconds_before": round(run.seconds_before, 1),
        "seconds_first_step": round(run.seconds_first_step, 1),
        "losses": [round(loss, 4) for loss in run.losses],
    }


def _ratios(measured: dict[str, Measurement]) -> dict[str, Any]:
    """Compare this project with each peer that ran.

    tokens_per_second: above 1, this project is faster. peak_memory: below 1, it needs less.
    """
    ours = measured.get(OURS)
    if ours is None:
        return {}
    return {
        library: {
            "tokens_per_second": round(statistics.median(a / b for a, b in zip(ours.rates, run.rates, strict=True)), 2),
            "peak_memory": round(ours.peak_mb / run.peak_mb, 2),
            "max_loss_difference": round(max(abs(a - b) for a, b in zip(ours.losses, run.losses, strict=True)), 4),
        }
        for library, run in measured.items()
        if library != OURS
    }


if __name__ == "__main__":
    main()
