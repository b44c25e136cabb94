"""`python -m trainer.training.tracking.wandb_process`: keeps one run at Weights & Biases, told by lines on its input.

The first line opens the run: {api_key, entity, project, name, run_id, config, seconds}. Then {train_step, figures} as
often as there are some, and at the end {exit_code}. An input that just ends is a training that was killed.

It answers `url …` when the run is there, and in offline mode `file …` with what `wandb sync` reads; everything else it
prints is W&B's own words.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainer.training.tracking.wandb_run import FILE, URL

if TYPE_CHECKING:
    import wandb

# How long W&B may take to open a run. Meanwhile the training goes on.
INIT_SECONDS = 60.0


def main() -> int:
    """Returns the exit code: 1 when there was no run."""
    sys.excepthook = lambda kind, error, trace: print(f"W&B broke: {kind.__name__}: {error}")
    lines = _lines()
    opening = json.loads(next(lines, "{}"))
    if not opening:
        return 1
    import wandb

    try:
        run = _opened(opening)
    except (wandb.Error, OSError) as error:  # W&B is not there, or knows no such key, project or entity
        print(f"there is no run: {type(error).__name__}: {error}")
        return 1
    if run.url:
        print(f"{URL}{run.url}", flush=True)
    exit_code = 1
    for line in lines:
        order = json.loads(line)
        if "exit_code" in order:
            exit_code = order["exit_code"]
            break
        # W&B counts upwards only, and has what an earlier attempt told of train_steps that are now made again.
        if order["train_step"] >= run.starting_step:
            run.log(order["figures"], step=order["train_step"])
    run.finish(exit_code=exit_code)
    if run.settings._offline:
        print(f"{FILE}{run.settings.sync_file}", flush=True)
    return 0


def _opened(opening: Mapping[str, Any]) -> wandb.Run:
    import wandb

    settings = wandb.Settings(
        api_key=opening["api_key"],
        init_timeout=INIT_SECONDS,
        finish_timeout=opening["seconds"],
        console="off",
        quiet=True,
        disable_git=True,
        disable_code=True,
        x_stats_pid=os.getppid(),
    )
    return wandb.init(
        entity=opening["entity"],
        project=opening["project"],
        name=opening["name"],
        id=opening["run_id"],
        config=opening["config"],
        resume="allow",
        settings=settings,
    )


def _lines() -> Iterator[str]:
    """What comes in, read while W&B is still opening the run, so that the sender's pipe never fills."""
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := waiting.get()) is not None:
        yield line


if __name__ == "__main__":
    sys.exit(main())
