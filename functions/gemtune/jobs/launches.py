"""Launches of a job: which workflow execution may run it. Pure: time comes in as an argument."""

from __future__ import annotations

from datetime import datetime, timedelta

from gemtune.errors import StaleClaim
from gemtune.jobs.changes import Changed, fail_job, with_event
from gemtune.jobs.record import Claim, Failure, Job, Launch
from gemtune.jobs.status import UNFINISHED

# Launches after the first one that `sweep` may start for a job.
RELAUNCHES = 3


# Launches in a row whose executions end without having claimed the job, before it fails.
UNCLAIMED_LAUNCHES = 6


def take_launch(job: Job, *, at: datetime, lease: timedelta) -> Changed:
    """Take the next launch number, unless a launch is under way, has the job claimed, or the job is over. The lease is
    twice as long after each launch that nobody claimed: what was broken may be mended by then."""
    here = job.launch
    leased = is_leased(here, at=at, lease=lease)
    if job.status not in UNFINISHED or leased or here.execution is not None or job.claim is not None:
        return job, ()
    lease_until = at + lease * 2**here.unclaimed
    launch = Launch(number=here.number + 1, lease_until=lease_until, unclaimed=here.unclaimed)
    return job.model_copy(update={"launch": launch}), ()


def is_leased(launch: Launch, *, at: datetime, lease: timedelta) -> bool:
    """Whether a launch still has time to be claimed; `lease` is that of a first one."""
    length = lease * 2**launch.unclaimed
    return launch.lease_until is not None and not has_passed(length, since=launch.lease_until - length, at=at)


def has_passed(wait: timedelta, *, since: datetime, at: datetime) -> bool:
    """Whether a wait is over. Where it seems to begin in the future, by more than its own length, it is: the clock was
    set back, and nobody has to wait for as long."""
    return not since - wait <= at < since + wait


def record_execution(job: Job, launch: int, execution: str) -> Changed:
    """Remember the execution of a launch."""
    if job.is_over or job.launch.number != launch:
        return job, ()
    return job.model_copy(update={"launch": job.launch.model_copy(update={"execution": execution})}), ()


def return_launch(job: Job, launch: int) -> Changed:
    """Give up a launch whose execution could not be started."""
    if job.launch.number != launch or job.claim is not None:
        return job, ()
    return job.model_copy(update={"launch": _without_execution(job.launch)}), ()


def give_up_launch(job: Job, launch: int, *, cause: str, at: datetime) -> Changed:
    """Give up a launch whose execution ended without a claim; fail the job when too many in a row did."""
    if job.is_over or job.launch.number != launch or job.claim is not None:
        return job, ()
    unclaimed = job.launch.unclaimed + 1
    job = job.model_copy(update={"launch": _without_execution(job.launch).model_copy(update={"unclaimed": unclaimed})})
    if unclaimed < UNCLAIMED_LAUNCHES:
        return job, ()
    message = f"{unclaimed} executions of the workflow ended before they took the job up, the last one as {cause}"
    hint = "the request is not at fault: see the logs of the workflow and of control, mend the service, submit again"
    return fail_job(job, Failure(code="never_taken_up", message=message, hint=hint), at=at)


def _without_execution(launch: Launch) -> Launch:
    return launch.model_copy(update={"lease_until": None, "execution": None})


def relaunch(job: Job, *, at: datetime, lease_until: datetime, cause: str) -> Changed:
    """Take the job from the execution that has it, for a new launch; its steps resume."""
    launch = Launch(number=job.launch.number + 1, lease_until=lease_until)
    job = job.model_copy(update={"claim": None, "launch": launch, "relaunches": job.relaunches + 1})
    return with_event(job, "job_relaunched", at, launch=job.launch.number, cause=cause)


def claim_launch(job: Job, claim: Claim) -> Changed:
    """Let one execution of the current launch in. The same execution may come again. Raises StaleClaim."""
    mine = claim.is_same(job.claim)
    if job.status not in UNFINISHED or claim.launch != job.launch.number or not (mine or job.claim is None):
        raise StaleClaim(f"launch {claim.launch} of job {job.job_id!r} is not the one that may run it")
    if mine:
        return job, ()
    return job.model_copy(update={"claim": claim}), ()


def check_claim(job: Job, claim: Claim) -> None:
    """Raises StaleClaim when the job is over, of a status that only a newer version knows, or another execution's."""
    if job.status not in UNFINISHED:
        raise StaleClaim(f"job {job.job_id!r} is {job.status}")
    if not claim.is_same(job.claim):
        raise StaleClaim(f"job {job.job_id!r} belongs to another execution")
