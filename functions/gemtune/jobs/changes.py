"""Changes of a job as a whole: accepted, moved, failed, cancelled. Pure: time comes in as an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gemtune.errors import IllegalMove, JobIsOver, JobIsRunning, NothingTrained
from gemtune.jobs.events import Event
from gemtune.jobs.record import ATTEMPTS_KEPT, Attempt, Failure, Job, StepRecord, StepState
from gemtune.jobs.status import FINAL, Status, Step, moves_from

Changed = tuple[Job, Sequence[Event]]


def accept_job(job: Job) -> Changed:
    """A new job with its first event."""
    origin = {} if job.parent_job_id is None else {"parent_job_id": job.parent_job_id}
    return with_event(job, "job_queued", job.created_at, **origin)


def steps_of_export(parent: Job) -> Mapping[Step, StepRecord]:
    """The steps of a job that exports again what `parent` trained: all but the export are done. Their attempts say
    where in the parent's folder their results lie. Raises JobIsRunning, NothingTrained."""
    if not parent.is_over:
        raise JobIsRunning(parent.job_id, parent.status)
    if not parent.has_trained:
        raise NothingTrained(parent.job_id)
    brought = {
        step: StepRecord(state="done", attempt=parent.steps[step].attempt) for step in (Step.PREPARE, Step.TRAIN)
    }
    return {**brought, Step.EXPORT: StepRecord()}


def change_status(job: Job, to: Status, *, at: datetime, **details: Any) -> Changed:
    """The job after one move, and the event that tells of it. Raises IllegalMove."""
    untrained = (job.status, to) == (Status.QUEUED, Status.EXPORTING) and not job.has_trained
    if untrained or to not in moves_from(job.status):
        raise IllegalMove(job.job_id, job.status, to)
    over, at = to in FINAL, _not_before(job, at)
    job = job.model_copy(
        update={
            "status": to,
            "started_at": job.started_at or (None if over else at),
            "finished_at": at if over else None,
        }
    )
    return with_event(job, f"job_{to}", at, **details)


def fail_job(job: Job, failure: Failure, *, at: datetime, ran: float | None = None) -> Changed:
    """The job will not be tried again. `ran`: see `ended`. Raises IllegalMove when it is over."""
    for step, record in job.steps.items():
        if record.state == "running":
            job = with_step(job, step, end_attempt(record, "failed", at, failure.code, ran))
    job = job.model_copy(update={"error": failure})
    return change_status(job, Status.FAILED, at=at, code=failure.code, message=failure.message)


def cancel_job(job: Job, *, at: datetime) -> Changed:
    """Raises JobIsOver."""
    if job.is_over:
        raise JobIsOver(job.job_id, job.status)
    for step, record in job.steps.items():
        if record.state == "running":
            job = with_step(job, step, end_attempt(record, "stopped", at, "cancelled"))
    return change_status(job, Status.CANCELLED, at=at)


def end_attempt(
    step: StepRecord, state: StepState, at: datetime, cause: str | None, ran: float | None = None
) -> StepRecord:
    """The step after its running attempt.

    ran: its seconds, where the attempt's own process measured them. Else they are those between two times of the day,
    and none where the clock was set back in between.
    """
    if ran is None:
        ran = max(0.0, (at - step.started_at).total_seconds()) if step.started_at else 0.0
    over = Attempt(attempt=step.attempt, seconds=round(ran, 3), cause=cause, checkpoint=step.checkpoint)
    return step.model_copy(
        update={
            "state": state,
            "heartbeat_at": at,
            "seconds": round(step.seconds + ran, 3),
            "cause": cause,
            "attempts": (*step.attempts, over)[-ATTEMPTS_KEPT:],
        }
    )


def with_step(job: Job, step: Step | str, record: StepRecord) -> Job:
    return job.model_copy(update={"steps": {**job.steps, step: record}})


def with_event(job: Job, type: str, at: datetime, **details: Any) -> Changed:
    seq, at = job.last_seq + 1, _not_before(job, at)
    event = Event(job_id=job.job_id, seq=seq, type=type, status=job.status, at=at, details=details)
    return job.model_copy(update={"last_seq": event.seq}), (event,)


def with_next_version(job: Job, before: Job, *, at: datetime) -> Job:
    """The changed job as a store writes it: one version on."""
    return job.model_copy(update={"version": before.version + 1, "updated_at": _not_before(before, at)})


def _not_before(job: Job, at: datetime) -> datetime:
    """A time for the job, and no earlier one than it has: clocks differ among machines, and are set back."""
    return max(at, job.created_at, job.updated_at, *([] if job.started_at is None else [job.started_at]))
