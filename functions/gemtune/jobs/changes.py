"""Changes of a whole job: accept it, change its status, fail it, cancel it.

All functions are pure: they return a changed copy, and the time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gemtune.errors import IllegalMove, JobIsOver, JobIsRunning, NothingTrained
from gemtune.jobs.events import Event
from gemtune.jobs.record import ATTEMPTS_KEPT, Attempt, Failure, Job, StepRecord, StepState
from gemtune.jobs.status import DONE_BEFORE, FINAL, Status, Step, moves_from

# The job after a change, and the events to store with it in the same transaction.
Changed = tuple[Job, Sequence[Event]]


def accept_job(job: Job) -> Changed:
    """Return a new job with its first event, `job_queued`."""
    origin = {} if job.parent_job_id is None else {"parent_job_id": job.parent_job_id}
    return with_event(job, "job_queued", job.created_at, **origin)


def check_trained(job: Job) -> None:
    """Raise JobIsRunning or NothingTrained unless a job has trained weights.

    It may have failed or been cancelled afterwards.
    """
    if not job.is_over:
        raise JobIsRunning(job.job_id, job.status)
    if not job.has_trained:
        raise NothingTrained(job.job_id)


def steps_of_export(parent: Job) -> Mapping[Step, StepRecord]:
    """Return the steps with which a job that only exports begins.

    Its parent has trained what it exports, so all steps but the export are done already. They keep the parent's attempt
    numbers, which are part of the names of the folders with the parent's results.
    Raises JobIsRunning, NothingTrained.
    """
    check_trained(parent)
    inherited = {
        step: StepRecord(state="done", attempt=parent.steps[step].attempt) for step in (Step.PREPARE, Step.TRAIN)
    }
    return {**inherited, Step.EXPORT: StepRecord()}


def change_status(job: Job, to: Status, *, at: datetime, event_type: str | None = None, **details: Any) -> Changed:
    """Move the job to another status, with the event `job_<status>`.

    Sets `started_at` with the first status in which a step runs, and `finished_at` with a final one.
    event_type: another type for the event. details: further facts for it. Raises IllegalMove when the table of moves
    does not allow it.
    """
    needed = DONE_BEFORE.get(to) if job.status == Status.QUEUED else None
    if to not in moves_from(job.status) or (needed is not None and job.steps[needed].state != "done"):
        raise IllegalMove(job.job_id, job.status, to)
    over, at = to in FINAL, _not_before(job, at)
    runs = to not in {*FINAL, Status.QUEUED, Status.PAUSED}
    job = job.model_copy(
        update={
            "status": to,
            "started_at": job.started_at or (at if runs else None),
            "finished_at": at if over else None,
            **({"waiting": None, "admission": None, "pause": None} if over else {}),
        }
    )
    return with_event(job, event_type or f"job_{to}", at, **details)


def fail_job(job: Job, failure: Failure, *, at: datetime, ran: float | None = None) -> Changed:
    """Fail the job for good, and end the attempts that still run.

    ran: measured seconds of the running attempt, as in `end_attempt`. Raises IllegalMove when the job is over.
    """
    for step, record in job.steps.items():
        if record.state == "running":
            job = with_step(job, step, end_attempt(record, "failed", at, failure.code, ran))
    job = job.model_copy(update={"error": failure})
    return change_status(job, Status.FAILED, at=at, code=failure.code, message=failure.message)


def cancel_job(job: Job, *, at: datetime) -> Changed:
    """Cancel the job, and end the attempts that still run. Raises JobIsOver."""
    if job.is_over:
        raise JobIsOver(job.job_id, job.status)
    for step, record in job.steps.items():
        if record.state == "running":
            job = with_step(job, step, end_attempt(record, "stopped", at, "cancelled"))
    return change_status(job, Status.CANCELLED, at=at)


def end_attempt(
    step: StepRecord, state: StepState, at: datetime, cause: str | None, ran: float | None = None
) -> StepRecord:
    """End the running attempt of a step.

    Adds it to the past attempts and sets the step's state.
    cause: why it ended unfinished; None when it finished the step.
    ran: seconds that the attempt's own process measured. Without it they are the difference of two times of the day,
    or 0 where the clock was set back in between.
    """
    if ran is None:
        ran = max(0.0, (at - step.started_at).total_seconds()) if step.started_at else 0.0
    past = Attempt(
        attempt=step.attempt,
        seconds=round(ran, 3),
        cause=cause,
        checkpoint=step.checkpoint,
        execution=step.execution,
    )
    return step.model_copy(
        update={
            "state": state,
            "heartbeat_at": at,
            "seconds": round(step.seconds + ran, 3),
            "cause": cause,
            "phase": None,
            "attempts": (*step.attempts, past)[-ATTEMPTS_KEPT:],
        }
    )


def with_step(job: Job, step: Step | str, record: StepRecord) -> Job:
    """Return the job with another record of one step."""
    return job.model_copy(update={"steps": {**job.steps, step: record}})


def with_event(job: Job, event_type: str, at: datetime, **details: Any) -> Changed:
    """Add an event with the job's next sequence number."""
    seq, at = job.last_seq + 1, _not_before(job, at)
    event = Event(job_id=job.job_id, seq=seq, type=event_type, status=job.status, at=at, details=details)
    return job.model_copy(update={"last_seq": event.seq}), (event,)


def with_next_version(job: Job, before: Job, *, at: datetime) -> Job:
    """Return the changed job with the next version and the time of the write."""
    return job.model_copy(update={"version": before.version + 1, "updated_at": _not_before(before, at)})


def _not_before(job: Job, at: datetime) -> datetime:
    """Return `at`, or the latest time in the job's record if that is later.

    Clocks differ between machines and are set back, but the times of one job must not decrease.
    """
    return max(at, job.created_at, job.updated_at, *([] if job.started_at is None else [job.started_at]))
