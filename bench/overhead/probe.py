"""Step program with a clock that classifies its time.

`python -m bench.overhead.probe prepare|train|export|comparison …` runs the program of that name. All time of the main
thread is counted once: as importing, wherever it happens (also inside loading); loading weights; training; evaluating;
comparing an export with the trained model; or other.
"""

from __future__ import annotations

import _frozen_importlib
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Environment variable with the folder in which each process writes a file with its times.
FOLDER = "GEMTUNE_OVERHEAD_FOLDER"


class Clock:
    """Clock that adds up seconds, and seconds of processor time, by kind."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self._kinds, self._since = ["other"], self._now()

    def count(self, owner: object, name: str, kind: str) -> None:
        """Count the time of a function, from now on, as `kind`."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return original(*args, **kwargs)
            self._add_elapsed()
            self._kinds.append(kind)
            try:
                return original(*args, **kwargs)
            finally:
                self._add_elapsed()
                self._kinds.pop()

        setattr(owner, name, call)

    def write(self, folder: Path) -> None:
        """Write the times to a file named after the process."""
        self._add_elapsed()
        (folder / f"{os.getpid()}.json").write_text(json.dumps(self.spent))

    def _add_elapsed(self) -> None:
        """Add the time since the last call to the current kind."""
        now = self._now()
        spent = self.spent.setdefault(self._kinds[-1], [0.0, 0.0])
        spent[:] = (total + (end - start) for total, start, end in zip(spent, self._since, now, strict=True))
        self._since = now

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def _instrument_train(clock: Clock, train: Any) -> None:
    """Count the baseline and all trainers that the train step creates."""
    clock.count(train, "_baseline", "evaluating")
    make = train._make

    def make_and_instrument(*args: Any, **kwargs: Any) -> Any:
        trainer = make(*args, **kwargs)
        clock.count(trainer, "train", "training")
        clock.count(trainer, "evaluation_metrics", "evaluating")
        return trainer

    train._make = make_and_instrument


def _instrument_child(clock: Clock, child: Any) -> None:
    """Run the certificate's process with a clock of its own.

    Waiting for it counts as a kind of its own, which is not added up.
    """
    run = child.run
    child.run = lambda arguments, stop: run(["-m", "bench.overhead.probe", "comparison", *arguments[2:]], stop)
    clock.count(child, "run", "waiting")


# Per module, a function that starts counting as soon as the module is imported.
INSTRUMENTS: dict[str, Callable[[Clock, Any], None]] = {
    "trainer.model.engines.huggingface": lambda clock, huggingface: clock.count(huggingface, "load", "loading"),
    "trainer.steps.train": _instrument_train,
    "trainer.process.child": _instrument_child,
    "trainer.certificate.runtimes": lambda clock, runtimes: clock.count(runtimes.Transformers, "__init__", "loading"),
    "trainer.certificate.comparison": lambda clock, comparison: clock.count(comparison, "compare", "comparing"),
}


def main() -> None:
    """Run a step with a clock, and write its times."""
    clock = Clock()
    clock.count(_frozen_importlib, "_find_and_load", "importing")
    find_and_load, pending = _frozen_importlib._find_and_load, dict(INSTRUMENTS)  # type: ignore[attr-defined]

    def find_load_and_instrument(name: str, import_: Any) -> Any:
        module = find_and_load(name, import_)
        if name in pending and getattr(module.__spec__, "_initializing", False) is False:
            pending.pop(name)(clock, module)
        return module

    _frozen_importlib._find_and_load = find_load_and_instrument  # type: ignore[attr-defined]
    try:
        if sys.argv[1] == "comparison":
            del sys.argv[1]
            from trainer.certificate import comparison_process

            comparison_process.main()
        else:
            from trainer.__main__ import main as step

            sys.exit(step())
    finally:
        clock.write(Path(os.environ[FOLDER]))


if __name__ == "__main__":
    main()
