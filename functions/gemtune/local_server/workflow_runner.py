"""Runs the active executions: each interprets workflows/fine_tune.yaml in a thread of its own."""

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

# Between looks when nothing was committed, and after a commit, of which there are many that start no execution.
LOOK_SECONDS, PAUSE_SECONDS = 1.0, 0.05
# A step's answer comes at once; a server under load may take its time.
HTTP_TIMEOUT_SECONDS = 60.0
# How long an execution waits that could not write to the disk.
FULL_DISK_SECONDS = 10.0


class _GivenUp(Exception):
    """The server stops, or the execution was cancelled: not an error of the workflow, so it cannot catch it."""


class WorkflowRunner:
    """No journal: after a restart an unfinished execution runs again from `main` with the same id, which claim and
    begin_step make safe."""

    def __init__(self, launcher: SqliteLauncher, jobs: CloudRunJobs, source: Path, *, control_url: str, token: str):
        self._source = source
        self._launcher = launcher
        self._jobs = jobs
        self._environment = {"CONTROL_URL": control_url, "RUN_PARENT": "projects/local/locations/local"}
        self._token = token
        self._stopping = threading.Event()
        self._running: dict[str, threading.Thread] = {}

    def run(self) -> None:
        """Pick up executions until `stop`."""
        while not self._stopping.is_set():
            try:
                version = self._launcher.version()
                self._pick_up()
                self._launcher.wait_for_newer(version, LOOK_SECONDS)
                self._stopping.wait(PAUSE_SECONDS)
            except Exception:
                log.exception("the list of executions could not be read; looking again")
                self._stopping.wait(LOOK_SECONDS)

    def _pick_up(self) -> None:
        self._running = {name: thread for name, thread in self._running.items() if thread.is_alive()}
        for execution, job_id, launch in self._launcher.active():
            if execution not in self._running:
                thread = threading.Thread(target=self._execute, args=(execution, job_id, launch), daemon=True)
                self._running[execution] = thread
                thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _execute(self, execution: str, job_id: str, launch: int) -> None:
        """Run an execution to its end. One that the disk stops is not over: it is picked up again, as after a restart
        of the server, and not at once."""
        try:
            self._interpret_to_its_end(execution, job_id, launch)
        except CannotStore:
            log.exception("execution %s of job %s waits for room on the disk", execution, job_id)
            self._stopping.wait(FULL_DISK_SECONDS)

    def _interpret_to_its_end(self, execution: str, job_id: str, launch: int) -> None:
        """Raises CannotStore."""
        environment = self._environment | {"GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": execution}
        argument = {"job_id": job_id, "launch": launch}
        try:
            self._interpret(execution, argument, environment)
            self._launcher.record_end(execution, ExecutionState.SUCCEEDED)
        except _GivenUp:
            log.info("execution %s stops here", execution)
        except CannotStore:
            raise
        except WorkflowFailed as error:
            log.error("execution %s of job %s failed: %s", execution, job_id, error)
            self._launcher.record_end(execution, ExecutionState.FAILED, json.dumps(error.error, default=str))
        except Exception as error:
            log.exception("execution %s of job %s broke", execution, job_id)
            self._launcher.record_end(execution, ExecutionState.FAILED, repr(error))

    def _interpret(self, execution: str, argument: object, environment: Mapping[str, str]) -> None:
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
        """Parsed when the first execution begins: a server that has nothing to run answers sooner."""
        from gemtune.local_server.workflow_engine.syntax import load

        return load(self._source)

    @cached_property
    def _client(self) -> httpx2.Client:
        import httpx2

        return httpx2.Client(timeout=HTTP_TIMEOUT_SECONDS, trust_env=False)

    def _check(self, execution: str) -> Callable[[], None]:
        def check() -> None:
            if self._stopping.is_set() or self._launcher.state(execution) is not ExecutionState.ACTIVE:
                raise _GivenUp

        return check

    def _sleep(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _GivenUp
