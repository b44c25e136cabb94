"""`python -m trainer.training.tracking.wandb_process`: one run at W&B.

Messages come in as lines of JSON. The first opens the run: {api_key, entity, project, name, run_id, config, seconds}.
Then come any number of {train_step, metrics}, and at the end {exit_code}. If the input ends without it, the training
was killed.

Once the run is open, the process prints `url …`, and at the end of an offline run `file …`, which `wandb sync` can
upload; all other output is W&B's.
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

# W&B may take this long to open a run; the training does not wait for it.
INIT_SECONDS = 60.0


def main() -> int:
    """Run until the input ends. Returns the exit code; 1 if no run was opened."""
    sys.excepthook = lambda kind, error, trace: print(f"W&B failed: {kind.__name__}: {error}")
    lines = _read_lines()
    opening = json.loads(next(lines, "{}"))
    if not opening:
        return 1
    import wandb

    try:
        run = _open_run(opening)
    except (wandb.Error, OSError) as error:  # W&B is unreachable, or refuses the key, project or entity
        print(f"no run could be opened: {type(error).__name__}: {error}")
        return 1
    if run.url:
        print(f"{URL}{run.url}", flush=True)
    exit_code = 1
    for line in lines:
        message = json.loads(line)
        if "exit_code" in message:
            exit_code = message["exit_code"]
            break
        # W&B accepts increasing steps only, and has those that an earlier attempt logged and this one repeats.
        if message["train_step"] >= run.starting_step:
            run.log(message["metrics"], step=message["train_step"])
    run.finish(exit_code=exit_code)
    wandb.teardown()  # the service process writes the end of the file of an offline run only when it ends
    if run.settings._offline:
        print(f"{FILE}{run.settings.sync_file}", flush=True)
    return 0


def _open_run(opening: Mapping[str, Any]) -> wandb.Run:
    """Open the run, or resume it if an earlier attempt opened it."""
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


def _read_lines() -> Iterator[str]:
    """Yield the lines of the input, read ahead by a thread.

    So the sender's pipe does not fill up while W&B is opening the run.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        yield line


if __name__ == "__main__":
    sys.exit(main())
