"""A run at Weights & Biases, kept by a process of its own: whatever W&B does, a training neither fails nor waits."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from gemtune.errors import JobNotFound, SecretNotFound, Stale
from trainer.context import Context
from trainer.published import published

log = logging.getLogger(__name__)

DEFAULT_PROJECT = "gemtune"
# How long the end of a training waits for W&B to take what is still on its way; an embedded service and Cloud Run give
# a process that was told to end ten seconds.
FINISH_SECONDS = 8.0
# A line of the process's output that begins so is its word to us; all others are for the log.
URL, FILE = "url ", "file "


class WandbRun:
    """Tells the process what to log, and listens to what it says."""

    def __init__(self, order: Mapping[str, Any], folder: Path, said: Callable[[str, str], None]):
        """order: see `wandb_process`. folder: where everything of W&B's is written. said: called with URL or FILE and
        what follows it, from another thread."""
        folder.mkdir(parents=True)
        places = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
        self._secret, self._said, self._deaf = order["api_key"], said, False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer.training.tracking.wandb_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {name: str(folder) for name in places} | {"WANDB_ERROR_REPORTING": "false"},
            start_new_session=True,
        )
        self._send(order)
        os.set_blocking(self._input.fileno(), False)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def log(self, train_step: int, figures: Mapping[str, float]) -> None:
        self._send({"train_step": train_step, "figures": dict(figures)})

    def keep(self) -> None:
        """W&B is sent everything at once."""

    def close(self, *, failed: bool) -> None:
        self._send({"exit_code": 1 if failed else 0})
        with suppress(OSError):
            self._input.close()
        try:
            self._process.wait(FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("W&B did not take everything within %d s; it goes without the rest", FINISH_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._listener.join(1.0)

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _send(self, order: Mapping[str, Any]) -> None:
        """Hand a line over, or give up for good: a training waits for nobody. A line that is shorter than PIPE_BUF is
        written whole or not at all."""
        if self._deaf:
            return
        try:
            os.write(self._input.fileno(), f"{json.dumps(order)}\n".encode())
        except OSError as error:  # it ended, or has not read for hundreds of lines
            self._deaf = True
            log.warning("W&B is told no more (%s); the training goes on without it", type(error).__name__)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word = next((word for word in (URL, FILE) if line.startswith(word)), None)
            if word is not None:
                self._said(word, line.removeprefix(word).strip())
            elif line.strip():
                log.info("W&B: %s", line.strip().replace(self._secret or "\n", "[secret]"))
        if self._process.wait() > 0:
            log.warning("W&B keeps no run of this attempt any more; the training goes on without it")


def start(context: Context) -> WandbRun:
    """The run of a job that asks for one: every attempt continues the same, since its id is the job's."""
    assert context.spec.wandb_config is not None
    entity, _, project = (context.spec.wandb_config.project or DEFAULT_PROJECT).rpartition("/")
    config = published(context.spec)
    order = {
        "api_key": _api_key(context),
        "entity": entity or None,
        "project": project,
        "name": config["job_name"],
        "run_id": context.job.job_id,
        "config": config,
        "seconds": FINISH_SECONDS,
    }
    return WandbRun(order, context.work / "wandb", lambda word, rest: _heard(context, word, rest))


def _api_key(context: Context) -> str | None:
    try:
        return context.secret("wandb_api_key")
    except SecretNotFound as error:
        log.warning("W&B gets no key: %s", error)
        return None


def _heard(context: Context, word: str, rest: str) -> None:
    """The run is there, or (in W&B's offline mode) a file that `wandb sync` can send later."""
    if word == FILE:
        path = Path(rest)  # `wandb sync` goes by the folder's name too
        place = f"{context.prefix}/wandb/{context.fence.attempt}/{path.parent.name}"
        context.buckets.export.upload(path, f"{place}/{path.name}")
        return
    log.info("W&B shows this training at %s", rest)
    with suppress(Stale, JobNotFound):
        context.advance.record_wandb_url(context.job.job_id, context.fence, wandb_url=rest)
