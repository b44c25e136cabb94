"""`python -m bench.overhead.probe prepare|train|export|comparison …`: the program of that name, with a clock in it.

Everything that the main thread does is counted once, as what it is for: importing, wherever it happens (also in the
midst of loading); loading weights; training; evaluating; comparing an export with what was trained. The rest is other.
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

# Where each process leaves its figures: a file of its own in this folder.
FOLDER = "GEMTUNE_OVERHEAD_FOLDER"


class Clock:
    """kind -> seconds, and seconds of the processor."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self._kinds, self._since = ["other"], self._now()

    def count(self, owner: object, name: str, kind: str) -> None:
        """From now on a function counts as `kind`."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return original(*args, **kwargs)
            self._turn()
            self._kinds.append(kind)
            try:
                return original(*args, **kwargs)
            finally:
                self._turn()
                self._kinds.pop()

        setattr(owner, name, call)

    def write(self, folder: Path) -> None:
        self._turn()
        (folder / f"{os.getpid()}.json").write_text(json.dumps(self.spent))

    def _turn(self) -> None:
        now = self._now()
        spent = self.spent.setdefault(self._kinds[-1], [0.0, 0.0])
        spent[:] = (total + (end - start) for total, start, end in zip(spent, self._since, now, strict=True))
        self._since = now

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def _of_train(clock: Clock, train: Any) -> None:
    clock.count(train, "_baseline", "evaluating")
    make = train._make

    def made(*args: Any, **kwargs: Any) -> Any:
        trainer = make(*args, **kwargs)
        clock.count(trainer, "train", "training")
        clock.count(trainer, "figures", "evaluating")
        return trainer

    train._make = made


def _of_child(clock: Clock, child: Any) -> None:
    """The certificate's process is one with a clock in it too; waiting for it is nothing that is done here."""
    run = child.run
    child.run = lambda arguments, stop: run(["-m", "bench.overhead.probe", "comparison", *arguments[2:]], stop)
    clock.count(child, "run", "waiting")


# What is counted of a module, as soon as it is there.
OF: dict[str, Callable[[Clock, Any], None]] = {
    "trainer.model.engines.huggingface": lambda clock, huggingface: clock.count(huggingface, "load", "loading"),
    "trainer.steps.train": _of_train,
    "trainer.process.child": _of_child,
    "trainer.certificate.runtimes": lambda clock, runtimes: clock.count(runtimes.Transformers, "__init__", "loading"),
    "trainer.certificate.comparison": lambda clock, comparison: clock.count(comparison, "compare", "comparing"),
}


def main() -> None:
    clock = Clock()
    clock.count(_frozen_importlib, "_find_and_load", "importing")
    find_and_load, waiting = _frozen_importlib._find_and_load, dict(OF)  # type: ignore[attr-defined]

    def found(name: str, import_: Any) -> Any:
        module = find_and_load(name, import_)
        if name in waiting and getattr(module.__spec__, "_initializing", False) is False:
            waiting.pop(name)(clock, module)
        return module

    _frozen_importlib._find_and_load = found  # type: ignore[attr-defined]
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
