"""Cloud Run jobs on this machine: each execution is a child process.

The child runs `python -m trainer …` and survives the death of the server. The next server adopts it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from gemtune.embedded.database import Database
from gemtune.local_server.workflow_engine.errors import WorkflowError
from gemtune.process import children
from gemtune.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class CloudRunJobs:
    """Local version of the workflow connector that runs Cloud Run jobs.

    The connector is `googleapis.run.v2.projects.locations.jobs.run`. `names` are those of the jobs. How many executions
    run at once is for control to decide.
    """

    def __init__(self, database: Database, settings: Settings, *, names: Collection[str]):
        self._database = database
        self._settings = settings
        self._names = frozenset(names)
        self._stopping = threading.Event()

    def run(self, args: Mapping[str, Any], *, check: Callable[[], None]) -> dict[str, Any]:
        """Run an execution, wait for its end, and return its resource.

        If a child with the same arguments is still running, that one is adopted instead. `args` are the connector's
        arguments. `check` is called repeatedly and stops the waiting by raising.

        Raises WorkflowError if the job is unknown, or if the execution fails or exceeds its timeout.
        """
        job = args["name"].rpartition("/")[2]
        overrides = args["body"]["overrides"]
        arguments = list(overrides["containerOverrides"][0]["args"])
        seconds = float(overrides["timeout"].removesuffix("s"))
        if job not in self._names:
            raise WorkflowError({"message": f"there is no job {job!r}", "code": 404, "tags": ["HttpError"]})
        running = self._find_running(arguments)
        if running is not None:  # the server was restarted, and the child went on
            log.info("adopting %s", running.name)
            return self._wait(running, seconds, check)
        check()
        return self._wait(self._start(job, arguments), seconds, check)

    def forget_ended(self) -> None:
        """Delete the rows of children that ended while no server was running."""
        for row in self._database.read().execute("SELECT name, pid FROM step_executions").fetchall():
            if children.find(row["pid"] or children.pid_of(row["name"]), row["name"]) is None:
                self._delete_row(row["name"])

    def stop(self) -> None:
        """Terminate all children in parallel; each can write a checkpoint.

        Their workflow executions continue when the server starts again.
        """
        self._stopping.set()
        rows = self._database.read().execute("SELECT name, pid FROM step_executions").fetchall()
        processes = [children.find(row["pid"], row["name"]) for row in rows]
        threads = [threading.Thread(target=children.terminate, args=(process,)) for process in processes if process]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _start(self, job: str, arguments: Sequence[str]) -> _Child:
        """Start a child and record it.

        The row is written before the start, so that a child is never unknown even if the server dies in between.
        """
        name = f"{job}-{uuid.uuid4().hex[:8]}"
        environment = os.environ | {
            "GEMTUNE_HOME": str(self._settings.home),
            "GEMTUNE_BACKEND": "embedded",
            "CLOUD_RUN_JOB": job,
            children.NAME_VARIABLE: name,
            "PYTHONUNBUFFERED": "1",
        }
        job_id = arguments[arguments.index("--job-id") + 1]
        with self._database.write() as connection:
            insert = "INSERT INTO step_executions (name, arguments, job_id) VALUES (?, ?, ?)"
            connection.execute(insert, (name, json.dumps(list(arguments)), job_id))
        log_path = self._settings.home / self._settings.export_bucket / "jobs" / job_id / "logs" / f"{name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as output:
            # In its own session, the child gets no signals that are meant for the server or its terminal.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "trainer", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        with self._database.write() as connection:
            connection.execute("UPDATE step_executions SET pid = ? WHERE name = ?", (process.pid, name))
        log.info("%s runs as process %d, log in %s", name, process.pid, log_path)
        return _Child(name, process.pid, process)

    def _find_running(self, arguments: Sequence[str]) -> _Child | None:
        """Return the running child with these arguments, or None.

        The arguments name the job, its launch, the workflow execution and the step.
        """
        query = "SELECT name, pid FROM step_executions WHERE arguments = ?"
        for row in self._database.read().execute(query, (json.dumps(list(arguments)),)).fetchall():
            # A row without pid: the server died between starting the child and recording its pid.
            pid = row["pid"] or children.pid_of(row["name"])
            if pid is not None and children.find(pid, row["name"]) is not None:
                return _Child(row["name"], pid, None)
            self._delete_row(row["name"])
        return None

    def _wait(self, child: _Child, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
        """Wait for a child's end and return its resource.

        Raises WorkflowError if it fails, or is terminated here after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while child.is_alive():
            check()
            if time.monotonic() >= deadline:
                process = children.find(child.pid, child.name)
                if process is not None:
                    children.terminate(process)
                self._delete_row(child.name)
                raise WorkflowError({"message": f"{child.name} exceeded its timeout", "tags": ["OperationError"]})
            time.sleep(POLL_SECONDS)
        if self._stopping.is_set():
            check()
        self._delete_row(child.name)
        code = child.exit_code()
        if code not in (None, 0):
            raise WorkflowError({"message": f"{child.name} ended with exit code {code}", "tags": ["OperationError"]})
        return {"name": f"executions/{child.name}", "succeededCount": 1}

    def _delete_row(self, name: str) -> None:
        with self._database.write() as connection:
            connection.execute("DELETE FROM step_executions WHERE name = ?", (name,))


class _Child:
    """Process of a step, started by this server or adopted.

    `process` is None for an adopted one. Only a parent can get an exit code; the job's record tells how the step ended.
    """

    def __init__(self, name: str, pid: int, process: subprocess.Popen[bytes] | None):
        self.name, self.pid, self._process = name, pid, process

    def is_alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return children.find(self.pid, self.name) is not None

    def exit_code(self) -> int | None:
        """Return the exit code, or None for an adopted process."""
        return None if self._process is None else self._process.returncode
