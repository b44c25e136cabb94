"""Runner of workflow executions, each in its own thread.

An execution interprets workflows/fine_tune.yaml.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.embedded.sqlite_launcher import SqliteLauncher
from gemtune.errors import CannotStore
from gemtune.local_server.workflow_engine.errors import WorkflowFailed
from gemtune.ports import ExecutionState

if TYPE_CHECKING:
    import httpx2

    from gemtune.local_server.cloud_run_jobs import CloudRunJobs
    from gemtune.local_server.workflow_engine.syntax import Workflow

log = logging.getLogger(__name__)

# Seconds between two polls for executions, and of a pause after each commit to the database: most commits start none.
POLL_SECONDS, PAUSE_SECONDS = 1.0, 0.05
# The control function answers quickly, unless the machine is under load.
HTTP_TIMEOUT_SECONDS = 60.0
# Seconds until an execution that failed on a full disk is tried again.
FULL_DISK_SECONDS = 10.0


class _Abandoned(Exception):
    """Raised in an execution to end it early.

    The server stops, or the execution was cancelled. It is not a WorkflowError, so the workflow cannot catch it.
    """


class WorkflowRunner:
    """Runs the active executions of the launcher.

    There is no journal: after a restart, an unfinished execution runs again from `main` with the same id. That is safe,
    because the control function accepts a claim with the same id again and says which steps are done.
    """

    def __init__(self, launcher: SqliteLauncher, jobs: CloudRunJobs, source: Path, *, control_url: str, token: str):
        self._source = source
        self._launcher = launcher
        self._jobs = jobs
        self._environment = {"CONTROL_URL": control_url, "RUN_PARENT": "projects/local/locations/local"}
        self._token = token
        self._stopping = threading.Event()
        self._running: dict[str, threading.Thread] = {}

    def run(self) -> None:
        """Start new executions until `stop` is called."""
        while not self._stopping.is_set():
            try:
                version = self._launcher.version()
                self._start_new()
                self._launcher.wait_for_newer(version, POLL_SECONDS)
                self._stopping.wait(PAUSE_SECONDS)
            except Exception:
                log.exception("the list of executions could not be read; trying again")
                self._stopping.wait(POLL_SECONDS)

    def _start_new(self) -> None:
        """Start a thread for each active execution that has none."""
        self._running = {name: thread for name, thread in self._running.items() if thread.is_alive()}
        for execution, job_id, launch in self._launcher.active():
            if execution not in self._running:
                thread = threading.Thread(target=self._execute, args=(execution, job_id, launch), daemon=True)
                self._running[execution] = thread
                thread.start()

    def stop(self) -> None:
        """Make `run` return and abandon the running executions."""
        self._stopping.set()

    def _execute(self, execution: str, job_id: str, launch: int) -> None:
        """Run one execution; if the disk is full, leave it active and wait.

        The execution is then started again, as after a restart of the server.
        """
        try:
            self._execute_and_record(execution, job_id, launch)
        except CannotStore:
            log.exception("execution %s of job %s waits for space on the disk", execution, job_id)
            self._stopping.wait(FULL_DISK_SECONDS)

    def _execute_and_record(self, execution: str, job_id: str, launch: int) -> None:
        """Run one execution and record how it ended, unless it was abandoned.

        Raises CannotStore.
        """
        environment = self._environment | {"GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": execution}
        argument = {"job_id": job_id, "launch": launch}
        try:
            self._interpret(execution, argument, environment)
            self._launcher.record_end(execution, ExecutionState.SUCCEEDED)
        except _Abandoned:
            log.info("execution %s is abandoned", execution)
        except CannotStore:
            raise
        except WorkflowFailed as error:
            log.error("execution %s of job %s failed: %s", execution, job_id, error)
            self._launcher.record_end(execution, ExecutionState.FAILED, json.dumps(error.error, default=str))
        except Exception as error:
            log.exception("execution %s of job %s failed unexpectedly", execution, job_id)
            self._launcher.record_end(execution, ExecutionState.FAILED, repr(error))

    def _interpret(self, execution: str, argument: object, environment: Mapping[str, str]) -> None:
        """Interpret the workflow with its calls bound to this server."""
        from gemtune.local_server.workflow_engine.http_calls import http_post
        from gemtune.local_server.workflow_engine.interpreter import execute

        check = self._check(execution)
        calls: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
            "http.post": lambda args: http_post(args, client=self._client, id_token=lambda url: self._token),
            "googleapis.run.v2.projects.locations.jobs.run": lambda args: self._jobs.run(args, check=check),
        }
        execute(self._workflow, argument, calls=calls, environment=environment, sleep=self._sleep)

    @cached_property
    def _workflow(self) -> Workflow:
        """Return the parsed workflow.

        It is parsed at the first execution, so that the server starts faster.
        """
        from gemtune.local_server.workflow_engine.reader import load

        return load(self._source)

    @cached_property
    def _client(self) -> httpx2.Client:
        import httpx2

        return httpx2.Client(timeout=HTTP_TIMEOUT_SECONDS, trust_env=False)

    def _check(self, execution: str) -> Callable[[], None]:
        """Return a function that raises _Abandoned if the execution must end."""

        def check() -> None:
            if self._stopping.is_set() or self._launcher.state(execution) is not ExecutionState.ACTIVE:
                raise _Abandoned

        return check

    def _sleep(self, seconds: float) -> None:
        """Sleep; raise _Abandoned if the server stops meanwhile."""
        if self._stopping.wait(seconds):
            raise _Abandoned
