"""Client of a running gemtune, over HTTP and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

TERMINAL = ("completed", "failed", "cancelled")


class Api:
    def __init__(self, url: str):
        self.url = url
        self.client = httpx2.Client(base_url=url, timeout=240, trust_env=False)

    def submit(self, request: dict[str, Any], **headers: str) -> str:
        answer = self.client.post("/train", json=request, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def status(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job_id}/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def events(self, job_id: str) -> list[dict[str, Any]]:
        return list(self.client.get(f"/jobs/{job_id}/events").json()["events"])

    def wait_until(self, job_id: str, when: Callable[[dict[str, Any]], bool], *, seconds: float) -> dict[str, Any]:
        shown: dict[str, Any] = wait_for(
            lambda: (job := self.status(job_id)) and (when(job) or job["status"] in TERMINAL) and job,
            seconds=seconds,
            what=f"job {job_id}",
            pause=0.3,
        )
        return shown

    def completed(self, job_id: str, *, seconds: float = 600) -> dict[str, Any]:
        job = self.wait_until(job_id, lambda job: False, seconds=seconds)
        assert job["status"] == "completed", json.dumps(job, indent=1) + self.logs(job_id)
        return job

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that point the command line at this gemtune."""
        raise NotImplementedError

    def cli(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env=self.environment, input=stdin, capture_output=True, text=True, timeout=240
        )

    def logs(self, job_id: str) -> str:
        """Return the end of every step's log."""
        raise NotImplementedError


def command(*arguments: str, python: Path | None = None) -> list[str]:
    """Return the command line of gemtune.

    python: the command with which it starts Python programs, if not the one that runs it.
    """
    program = "from gemtune.cli import main; main()"
    if python is not None:
        program = f"import sys; sys.executable = {str(python)!r}; {program}"
    return [sys.executable, "-c", program, *arguments]


def wait_for(ask: Callable[[], Any], *, seconds: float, what: str, pause: float = 0.1) -> Any:
    """Poll `ask` until its result is true, and return that result.

    Other processes run in real time, so their state has to be polled. Raises AssertionError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := ask():
            return result
        time.sleep(pause)
    raise AssertionError(f"waited {seconds} s for {what}")
