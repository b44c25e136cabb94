"""Checks of datasets as child processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from gemtune.checks.errors import TooManyChecks
from gemtune.embedded.disk import make_folder
from gemtune.process import children
from gemtune.settings import Settings

# Processes at the same time. Each takes a core, and memory for one tokenizer.
AT_ONCE = 4


class ChildChecks:
    """`ports.CheckRunner` with a child process for each check.

    A child survives the death of the service; its report is found later.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def start(self, dataset_id: str, check_id: str) -> None:
        """Start the process of a check. Raises TooManyChecks."""
        with self._lock:
            self._started = {name: child for name, child in self._started.items() if child.poll() is None}
            if len(self._started) >= AT_ONCE:
                raise TooManyChecks(len(self._started))
            environment = os.environ | {
                "GEMTUNE_HOME": str(self._settings.home),
                "GEMTUNE_BACKEND": "embedded",
                children.NAME_VARIABLE: check_id,
                "PYTHONUNBUFFERED": "1",
            }
            logs = self._settings.home / "logs"
            make_folder(logs)
            with (logs / "checks.log").open("ab") as output:
                # In its own session, the child gets no signals that are meant for the service or its terminal.
                self._started[check_id] = subprocess.Popen(
                    [sys.executable, "-P", "-m", "trainer", "check", "--dataset", dataset_id, "--check", check_id],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )

    def is_running(self, dataset_id: str, check_id: str) -> bool:
        """Return whether the process of a check is running."""
        child = self._started.get(check_id)
        return children.pid_of(check_id) is not None if child is None else child.poll() is None
