"""Pausing and resuming of a job. Pure: each returns a changed copy."""

from __future__ import annotations

from datetime import datetime

from gemtune.errors import CannotPause, JobIsOver, JobNotPaused
from gemtune.jobs.changes import Changed, change_status, with_step
from gemtune.jobs.parts.holds import Pause, PauseReason
from gemtune.jobs.record import Job
from gemtune.jobs.status import PAUSABLE, STEPS, Status, Step, moves_from
from gemtune.jobs.steps import end_silent_attempt


def request_pause(job: Job, *, reason: PauseReason, at: datetime) -> Changed:
    """Ask for a pause, which begins at once unless a step is running.

    A running step stops at a whole checkpoint. Does nothing if the job is paused or about to be.
    Raises JobIsOver, CannotPause.
    """
    if job.is_over:
        raise JobIsOver(job.job_id, job.status)
    if job.status is Status.PAUSED or job.pause is not None:
        return job, ()
    if job.status not in PAUSABLE:
        raise CannotPause(job.job_id, job.status)
    return settle(job.model_copy(update={"pause": Pause(reason=reason, at=at)}), at=at)


def settle(job: Job, *, at: datetime) -> Changed:
    """Pause the job if that was asked for and no step runs any more."""
    if job.pause is None or Status.PAUSED not in moves_from(job.status) or job.running_step is not None:
        return job, ()
    launch = job.launch.model_copy(update={"lease_until": None, "execution": None, "unclaimed": 0})
    job = job.model_copy(update={"claim": None, "launch": launch, "waiting": None, "admission": None})
    assert job.pause is not None
    return change_status(
        job, Status.PAUSED, at=at, reason=job.pause.reason, checkpoint=job.steps[Step.TRAIN].checkpoint
    )


def settle_lost(job: Job, *, at: datetime) -> Changed:
    """Pause a job whose execution was lost while it was about to pause."""
    for step in STEPS:
        if job.pause is not None:
            job = with_step(job, step, end_silent_attempt(job.steps[step], at=at))
    return settle(job, at=at)


def pause_after(job: Job, step: Step, *, at: datetime) -> Changed:
    """Pause the job if its request says so, now that this step is done."""
    if job.pause_after != step or job.status not in PAUSABLE:
        return job, ()
    pause = job.pause or Pause(reason="prepare", at=at)
    return settle(job.model_copy(update={"pause": pause, "pause_after": None}), at=at)


def resume(job: Job, *, at: datetime) -> Changed:
    """Queue a paused job again, or withdraw the request for a pause.

    Raises JobIsOver, JobNotPaused.
    """
    if job.is_over:
        raise JobIsOver(job.job_id, job.status)
    if job.pause is None:
        raise JobNotPaused(job.job_id, job.status)
    job = job.model_copy(update={"pause": None})
    if job.status is not Status.PAUSED:
        return job, ()
    return change_status(job, Status.QUEUED, at=at, event_type="job_resumed")
