"""Launches of a job: which workflow execution may run it.

All functions are pure: they return a changed copy, and the time is an argument. A change that no longer applies
returns the same job and no events.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from gemtune.errors import StaleClaim
from gemtune.jobs.changes import Changed, fail_job, with_event
from gemtune.jobs.record import Claim, Failure, Job, Launch
from gemtune.jobs.status import LAUNCHABLE, UNFINISHED

# Largest number of launches that `sweep` starts for a job after the first one.
RELAUNCHES = 3
# Number of launches in a row that end without a claim before the job fails.
UNCLAIMED_LAUNCHES = 6


def take_launch(job: Job, *, at: datetime, lease: timedelta) -> Changed:
    """Take the next launch number for a job that waits for one.

    Does nothing if a launch is under way, or if the job is claimed or over. The lease doubles with each
    consecutive launch that was not claimed, which leaves more time to fix the cause.
    """
    current = job.launch
    leased = is_leased(current, at=at, lease=lease)
    if job.status not in LAUNCHABLE or leased or current.execution is not None or job.claim is not None:
        return job, ()
    lease_until = at + lease * 2**current.unclaimed
    launch = Launch(number=current.number + 1, lease_until=lease_until, unclaimed=current.unclaimed)
    return job.model_copy(update={"launch": launch}), ()


def is_leased(launch: Launch, *, at: datetime, lease: timedelta) -> bool:
    """Return whether a launch still has time to be claimed.

    lease: the length of a first launch's lease.
    """
    length = lease * 2**launch.unclaimed
    return launch.lease_until is not None and not has_passed(length, since=launch.lease_until - length, at=at)


def has_passed(wait: timedelta, *, since: datetime, at: datetime) -> bool:
    """Return whether a wait is over.

    A wait that seems to begin in the future, by more than its own length, counts as over: the clock was set back, and
    nothing should wait until it has caught up.
    """
    return not since - wait <= at < since + wait


def record_execution(job: Job, launch: int, execution: str) -> Changed:
    """Record which workflow execution a launch started.

    Does nothing if a newer launch has replaced it, or if the job is over.
    """
    if job.is_over or job.launch.number != launch:
        return job, ()
    return job.model_copy(update={"launch": job.launch.model_copy(update={"execution": execution})}), ()


def return_launch(job: Job, launch: int) -> Changed:
    """End the lease of a launch whose execution could not be started.

    The next launch then need not wait for the lease to run out.
    """
    if job.launch.number != launch or job.claim is not None:
        return job, ()
    return job.model_copy(update={"launch": _without_execution(job.launch)}), ()


def give_up_launch(job: Job, launch: int, *, cause: str, at: datetime) -> Changed:
    """Give up a launch whose execution ended without a claim.

    Fails the job after UNCLAIMED_LAUNCHES of them in a row. cause: how the last execution ended.
    """
    if job.is_over or job.launch.number != launch or job.claim is not None:
        return job, ()
    unclaimed = job.launch.unclaimed + 1
    job = job.model_copy(update={"launch": _without_execution(job.launch).model_copy(update={"unclaimed": unclaimed})})
    if unclaimed < UNCLAIMED_LAUNCHES:
        return job, ()
    message = f"{unclaimed} workflow executions in a row ended before they claimed the job, the last one as {cause}"
    hint = "the request is not at fault: see the logs of the workflow and of control, fix the service, submit again"
    return fail_job(job, Failure(code="never_taken_up", message=message, hint=hint), at=at)


def _without_execution(launch: Launch) -> Launch:
    """Return a launch that is neither leased nor has an execution."""
    return launch.model_copy(update={"lease_until": None, "execution": None})


def relaunch(job: Job, *, at: datetime, lease_until: datetime, cause: str) -> Changed:
    """Replace the launch whose execution is lost by a new one.

    The lost execution's claim is removed. The new execution resumes the job's steps.
    """
    launch = Launch(number=job.launch.number + 1, lease_until=lease_until)
    relaunches = job.relaunches + (1 if job.waiting is None else 0)  # a job may wait longer than an execution lasts
    job = job.model_copy(update={"claim": None, "launch": launch, "relaunches": relaunches})
    return with_event(job, "job_relaunched", at, launch=job.launch.number, cause=cause)


def claim_launch(job: Job, claim: Claim) -> Changed:
    """Give the job to an execution of the current launch.

    An execution may claim its job twice, because it retries a call whose response was lost. Raises StaleClaim if the
    job is over or paused, has a newer launch, or belongs to another execution.
    """
    already_claimed = claim.is_same(job.claim)
    is_free = already_claimed or job.claim is None
    if job.status not in LAUNCHABLE or claim.launch != job.launch.number or not is_free:
        raise StaleClaim(f"launch {claim.launch} of job {job.job_id!r} is not the one that may run it")
    if already_claimed:
        return job, ()
    return job.model_copy(update={"claim": claim}), ()


def check_claim(job: Job, claim: Claim) -> None:
    """Raise StaleClaim unless this execution claims the unfinished job.

    Also raises it for an unknown status, which a newer version of the service wrote.
    """
    if job.status not in UNFINISHED:
        raise StaleClaim(f"job {job.job_id!r} is {job.status}")
    if not claim.is_same(job.claim):
        raise StaleClaim(f"job {job.job_id!r} belongs to another execution")
