"""Cloud Run jobs on this machine: each execution is a `python -m trainer …` child that outlives the server."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gemtune.embedded.database import Database
from gemtune.local_server.concurrency_slots import ConcurrencySlots
from gemtune.local_server.workflow_engine.errors import WorkflowError
from gemtune.process import children
from gemtune.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1


class CloudRunJobs:
    """The connector `googleapis.run.v2.projects.locations.jobs.run`: starts a step, waits for it, tells how it ended.

    `parallel` says how many executions of a job run at once, by the job's name; the others wait for their turn, in the
    order in which they came.
    """

    def __init__(self, database: Database, settings: Settings, *, parallel: Mapping[str, int]):
        self._database = database
        self._settings = settings
        self._slots = {job: ConcurrencySlots(count) for job, count in parallel.items()}
        self._stopping = threading.Event()

    def run(self, args: Mapping[str, Any], *, check: Callable[[], None]) -> dict[str, Any]:
        """Run one execution and return its resource. `check` is asked again and again and raises to give up waiting.

        Raises WorkflowError when the execution fails or runs out of time.
        """
        job = args["name"].rpartition("/")[2]
        overrides = args["body"]["overrides"]
        arguments = list(overrides["containerOverrides"][0]["args"])
        seconds = float(overrides["timeout"].removesuffix("s"))
        if job not in self._slots:
            raise WorkflowError({"message": f"there is no job {job!r}", "code": 404, "tags": ["HttpError"]})
        alive = self._alive(arguments)
        if alive is not None:  # the server was started again, and this child never stopped
            log.info("adopting %s", alive.name)
            with self._slots[job].occupy():
                return self._wait(alive, seconds, check)
        with self._slots[job].acquire(check):
            check()
            return self._wait(self._start(job, arguments), seconds, check)

    def forget_ended(self) -> None:
        """Remove what is known of children that ended while no server ran; of others it is removed when they end."""
        for row in self._database.read().execute("SELECT name, pid FROM step_executions").fetchall():
            if children.find(row["pid"] or children.pid_of(row["name"]), row["name"]) is None:
                self._ended(row["name"])

    def stop(self) -> None:
        """End every child, each with time for a checkpoint; their executions go on at the next start."""
        self._stopping.set()
        rows = self._database.read().execute("SELECT name, pid FROM step_executions").fetchall()
        found = [children.find(row["pid"], row["name"]) for row in rows]
        threads = [threading.Thread(target=children.terminate, args=(process,)) for process in found if process]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _start(self, job: str, arguments: Sequence[str]) -> _Child:
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
            # A session of its own: what ends the server, or its terminal, does not end the child.
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer", *arguments],
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

    def _alive(self, arguments: Sequence[str]) -> _Child | None:
        """The living child of these arguments, which name job, launch, workflow execution and step."""
        query = "SELECT name, pid FROM step_executions WHERE arguments = ?"
        for row in self._database.read().execute(query, (json.dumps(list(arguments)),)).fetchall():
            # Without a pid, the server died between starting the child and writing down which one it is.
            pid = row["pid"] or children.pid_of(row["name"])
            if pid is not None and children.find(pid, row["name"]) is not None:
                return _Child(row["name"], pid, None)
            self._ended(row["name"])
        return None

    def _wait(self, child: _Child, seconds: float, check: Callable[[], None]) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while child.is_alive():
            check()
            if time.monotonic() >= deadline:
                process = children.find(child.pid, child.name)
                if process is not None:
                    children.terminate(process)
                self._ended(child.name)
                raise WorkflowError({"message": f"{child.name} ran out of time", "tags": ["OperationError"]})
            time.sleep(LOOK_SECONDS)
        if self._stopping.is_set():
            check()
        self._ended(child.name)
        code = child.exit_code()
        if code not in (None, 0):
            raise WorkflowError({"message": f"{child.name} ended with code {code}", "tags": ["OperationError"]})
        return {"name": f"executions/{child.name}", "succeededCount": 1}

    def _ended(self, name: str) -> None:
        with self._database.write() as connection:
            connection.execute("DELETE FROM step_executions WHERE name = ?", (name,))


class _Child:
    """A step's process: ours, or adopted; nobody but a parent can learn an exit code, and the record says it anyway."""

    def __init__(self, name: str, pid: int, process: subprocess.Popen[bytes] | None):
        self.name, self.pid, self._process = name, pid, process

    def is_alive(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return children.find(self.pid, self.name) is not None

    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.returncode
