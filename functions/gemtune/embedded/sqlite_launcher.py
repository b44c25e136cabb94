"""Launcher on SQLite: executions are rows, steps are child processes.

The server's workflow runner picks up the rows.
"""

from __future__ import annotations

import logging
import threading
import uuid

from gemtune.embedded.database import Database
from gemtune.ports import Clock, ExecutionState
from gemtune.process import children

log = logging.getLogger(__name__)


class SqliteLauncher:
    """`ports.Launcher` on SQLite, with methods for the workflow runner."""

    def __init__(self, database: Database, *, clock: Clock):
        self._database = database
        self._clock = clock

    def start(self, job_id: str, launch: int) -> str:
        """Insert the row of an execution unless the launch has one."""
        # Not durable: when the server starts, it restarts every launch that has no execution.
        with self._database.write(durable=False) as connection:
            connection.execute(
                "INSERT OR IGNORE INTO executions VALUES (?, ?, ?, ?, NULL, ?)",
                (str(uuid.uuid4()), job_id, launch, ExecutionState.ACTIVE, self._clock.now().isoformat()),
            )
            query = "SELECT execution FROM executions WHERE job_id = ? AND launch = ?"
            return str(connection.execute(query, (job_id, launch)).fetchone()["execution"])

    def state(self, execution: str) -> ExecutionState:
        """Return an execution's state; GONE if it has no row."""
        query = "SELECT state FROM executions WHERE execution = ?"
        row = self._database.read().execute(query, (execution,)).fetchone()
        return ExecutionState.GONE if row is None else ExecutionState(row["state"])

    def stop(self, execution: str) -> None:
        """Record that an execution was cancelled; its thread then ends."""
        self.record_end(execution, ExecutionState.CANCELLED)

    def stop_step(self, execution: str) -> None:
        """Terminate a step's child process, if any, in the background."""
        row = self._database.read().execute("SELECT pid FROM step_executions WHERE name = ?", (execution,)).fetchone()
        process = None if row is None else children.find(row["pid"], execution)
        if process is not None:
            # In a thread, because the caller is handling a request and the child may use its whole grace period.
            threading.Thread(target=children.terminate, args=(process,), daemon=True).start()

    def stop_steps(self, cloud_run_job: str, job_id: str) -> None:
        """Terminate the child processes of a job's step."""
        rows = self._database.read().execute("SELECT name FROM step_executions WHERE job_id = ?", (job_id,)).fetchall()
        for row in rows:
            if row["name"].startswith(f"{cloud_run_job}-"):
                self.stop_step(row["name"])

    def version(self) -> tuple[int, int]:
        """Return a value that changes when there may be new executions."""
        return self._database.version()

    def wait_for_newer(self, version: tuple[int, int], seconds: float) -> None:
        """Wait at most `seconds` until `version()` differs from `version`."""
        self._database.wait_for_newer(version, seconds)

    def active(self) -> list[tuple[str, str, int]]:
        """Return (execution, job id, launch) of every active execution."""
        query = "SELECT execution, job_id, launch FROM executions WHERE state = ?"
        rows = self._database.read().execute(query, (ExecutionState.ACTIVE,)).fetchall()
        return [(row["execution"], row["job_id"], row["launch"]) for row in rows]

    def record_end(self, execution: str, state: ExecutionState, error: str | None = None) -> None:
        """Record how an execution ended, unless it has ended before."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE executions SET state = ?, error = ? WHERE execution = ? AND state = ?",
                (state, error, execution, ExecutionState.ACTIVE),
            )
