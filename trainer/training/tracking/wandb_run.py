"""A run at Weights & Biases, held by a child process.

Whatever W&B does, the training neither fails nor waits for it.
"""

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
from trainer.published import public_fields

log = logging.getLogger(__name__)

DEFAULT_PROJECT = "gemtune"
# When training ends, the process waits this long for W&B to upload the rest. After SIGTERM it has ten seconds, both on
# Cloud Run and in the embedded service.
FINISH_SECONDS = 8.0
# Prefixes of output lines that are messages of the process; all other lines go to the log.
URL, FILE = "url ", "file "


class WandbRun:
    """The child process, which receives metrics and reports the run's address."""

    def __init__(self, opening: Mapping[str, Any], folder: Path, on_message: Callable[[str, str], None]):
        """Start the process and open the run.

        opening: the first message, see `wandb_process`. folder: for all files of W&B. on_message: called from another
        thread with URL or FILE, and the rest of the line.
        """
        folder.mkdir(parents=True)
        variables = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
        self._secret, self._on_message, self._closed = opening["api_key"], on_message, False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "trainer.training.tracking.wandb_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {name: str(folder) for name in variables} | {"WANDB_ERROR_REPORTING": "false"},
            start_new_session=True,
        )
        self._send(opening)
        os.set_blocking(self._input.fileno(), False)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def log(self, train_step: int, metrics: Mapping[str, float]) -> None:
        """Send metrics to the process."""
        self._send({"train_step": train_step, "metrics": dict(metrics)})

    def persist(self) -> None:
        """Do nothing: W&B receives everything at once."""

    def close(self, *, failed: bool) -> None:
        """End the run, and wait up to FINISH_SECONDS for its upload."""
        self._send({"exit_code": 1 if failed else 0})
        with suppress(OSError):
            self._input.close()
        try:
            self._process.wait(FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("W&B did not receive everything within %d s; the rest is lost", FINISH_SECONDS)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._listener.join(1.0)

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _send(self, message: Mapping[str, Any]) -> None:
        """Write a message without waiting; after a failure, send no more.

        A line shorter than PIPE_BUF is written completely or not at all.
        """
        if self._closed:
            return
        try:
            os.write(self._input.fileno(), f"{json.dumps(message)}\n".encode())
        except OSError as error:  # the process ended, or the pipe is full
            self._closed = True
            log.warning("W&B receives no more metrics (%s); the training continues without it", type(error).__name__)

    def _listen(self) -> None:
        """Read the process's output until it ends; runs in a thread."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            prefix = next((prefix for prefix in (URL, FILE) if line.startswith(prefix)), None)
            if prefix is not None:
                self._on_message(prefix, line.removeprefix(prefix).strip())
            elif line.strip():
                log.info("W&B: %s", line.strip().replace(self._secret or "\n", "[secret]"))
        if self._process.wait() > 0:
            log.warning("the W&B process failed; the training continues without it")


def start(context: Context) -> WandbRun:
    """Open the job's run. All attempts share it, since its id is the job's."""
    assert context.spec.wandb_config is not None
    entity, _, project = (context.spec.wandb_config.project or DEFAULT_PROJECT).rpartition("/")
    config = public_fields(context.spec)
    opening = {
        "api_key": _api_key(context),
        "entity": entity or None,
        "project": project,
        "name": config["job_name"],
        "run_id": context.job.job_id,
        "config": config,
        "seconds": FINISH_SECONDS,
    }
    return WandbRun(opening, context.work / "wandb", lambda prefix, rest: _handle_message(context, prefix, rest))


def _api_key(context: Context) -> str | None:
    """Return the key of the job or of the service; None if it was deleted."""
    try:
        return context.secret("wandb_api_key")
    except SecretNotFound as error:
        log.warning("there is no API key for W&B: %s", error)
        return None


def _handle_message(context: Context, prefix: str, rest: str) -> None:
    """Record the run's address, or upload the file of an offline run.

    `wandb sync` can send such a file to W&B later.
    """
    if prefix == FILE:
        path = Path(rest)  # `wandb sync` needs the folder's name too
        place = f"{context.prefix}/wandb/{context.fence.attempt}/{path.parent.name}"
        context.buckets.export.upload(path, f"{place}/{path.name}")
        return
    log.info("W&B shows this training at %s", rest)
    with suppress(Stale, JobNotFound):
        context.advance.record_wandb_url(context.job.job_id, context.fence, wandb_url=rest)
