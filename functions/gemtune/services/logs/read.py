"""Pages of the output of a job's steps, attempt after attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gemtune.errors import BadPageToken
from gemtune.jobs.record import Job
from gemtune.jobs.status import Step
from gemtune.ports import JobStore, Logs

# A page ends behind the line with which its text has so many bytes: on Google Cloud an answer may have 32 MiB.
PAGE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StepLine:
    """Line of output, and what wrote it.

    attempt: None if the process ended before it began one.
    """

    step: str
    attempt: int | None
    at: datetime | None
    text: str


@dataclass(frozen=True, slots=True)
class LogPage:
    """Page of lines.

    next_after: where the next ones begin; None before any output.
    """

    lines: Sequence[StepLine]
    next_after: str | None
    more: bool


@dataclass(frozen=True, slots=True)
class ReadLogs:
    """Service that reads the output of steps."""

    store: JobStore
    logs: Logs

    def __call__(self, job_id: str, *, step: Step | None, after: str | None, limit: int) -> LogPage:
        """Return up to `limit` lines that follow a place, and fewer long ones.

        step: of which output is returned; None: of all. after: `next_after` of the page before.
        Raises JobNotFound, RecordUnreadable, BadPageToken, NoLogs, LogsBusy.
        """
        job = self.store.get(job_id)
        attempts = _attempts_by_execution(job)
        executions = [name for name in self.logs.executions(job) if step is None or _step_of(name, attempts) == step]
        execution, position = _decoded(after, executions)
        remaining = executions if execution is None else executions[executions.index(execution) :]
        lines: list[StepLine] = []
        left = PAGE_BYTES
        for execution in remaining:
            is_over = execution != remaining[-1] or not _is_running(job, execution)
            while len(lines) < limit and left > 0:
                chunk = self.logs.read(job_id, execution, position=position, limit=limit - len(lines), is_over=is_over)
                if not chunk.lines:
                    break
                position = chunk.position
                writer, attempt = _step_of(execution, attempts), attempts.get(execution, (None, None))[1]
                lines += [StepLine(writer, attempt, line.at, line.text) for line in chunk.lines]
                left -= sum(len(line.text.encode(errors="replace")) for line in chunk.lines)
            if len(lines) >= limit or left <= 0:
                break
            if execution != remaining[-1]:
                position = ""
        is_full = len(lines) >= limit or left <= 0
        return LogPage(lines, None if execution is None else f"{execution}:{position}", is_full)


def _attempts_by_execution(job: Job) -> dict[str, tuple[str, int]]:
    """Return the step and the number of the attempt of each execution."""
    attempts: dict[str, tuple[str, int]] = {}
    for step, record in job.steps.items():
        for past in record.attempts:
            if past.execution is not None:
                attempts[past.execution] = (str(step), past.attempt)
        if record.execution is not None:
            attempts[record.execution] = (str(step), record.attempt)
    return attempts


def _step_of(execution: str, attempts: dict[str, tuple[str, int]]) -> str:
    """Return the step of an execution, by its attempt or by its name.

    Cloud Run jobs are named `gemtune-<step>`, with the machine behind it.
    """
    return attempts[execution][0] if execution in attempts else execution.split("-")[1]


def _is_running(job: Job, execution: str) -> bool:
    """Return whether more output of an execution may come."""
    return any(step.execution == execution and step.state == "running" for step in job.steps.values()) or (
        not job.is_over and all(step.execution != execution for step in job.steps.values())
    )


def _decoded(after: str | None, executions: Sequence[str]) -> tuple[str | None, str]:
    """Return the execution and the position of a place.

    None and the beginning for no place. Raises BadPageToken if the job has no such execution.
    """
    if after is None:
        return None, ""
    execution, separator, position = after.partition(":")
    if not separator or execution not in executions:
        raise BadPageToken()
    return execution, position
