"""Waits of a job for its next step's machine.

All functions are pure: they return a changed copy.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from gemtune.jobs.changes import Changed, end_attempt, with_event, with_step
from gemtune.jobs.launches import check_claim
from gemtune.jobs.parts.holds import Admission, Waiting
from gemtune.jobs.record import Claim, Job
from gemtune.jobs.status import Step

# An estimate is replaced by one that differs from it by this time and by this share of the wait.
CLOSE, CLOSE_SHARE = timedelta(minutes=1), 0.1
# Reason of a wait for a machine that was removed from the deployment.
NOT_DEPLOYED: Literal["not_deployed"] = "not_deployed"


def wait_for_slot(
    job: Job, claim: Claim, *, machine: str, position: int, start: datetime | None = None, at: datetime
) -> Changed:
    """Record that the job waits for a slot, with the event `job_waiting`.

    Only the first time adds the event; later ones change the position, and the estimate if it differs much.
    start: estimated end of the wait. Raises StaleClaim.
    """
    check_claim(job, claim)
    before = None if job.waiting is None else job.waiting.estimated_start
    if start is not None and before is not None and abs(start - before) < max(CLOSE, (start - at) * CLOSE_SHARE):
        start = before
    return _wait(job, Waiting(machine=machine, reason="slot", position=position, since=at, estimated_start=start))


def wait_for_deployment(job: Job, claim: Claim, *, machine: str, at: datetime) -> Changed:
    """Record that the deployment does not have the job's machine any more.

    Raises StaleClaim.
    """
    check_claim(job, claim)
    return _wait(job, Waiting(machine=machine, reason=NOT_DEPLOYED, position=0, since=at))


def admit(job: Job, claim: Claim, step: Step, *, machine: str, cloud_run_job: str, at: datetime) -> Changed:
    """Record that a step has its slot and is about to run. Raises StaleClaim.

    The wait ends when the step begins.
    """
    check_claim(job, claim)
    admission = Admission(
        step=step, machine=machine, cloud_run_job=cloud_run_job, attempt=job.steps[step].attempt, at=at
    )
    update: dict[str, object] = {"admission": admission}
    if job.waiting is not None and job.waiting.reason in ("slot", NOT_DEPLOYED):
        update["waiting"] = job.waiting.model_copy(
            update={"reason": "starting", "position": 0, "estimated_start": None}
        )
    return job.model_copy(update=update), ()


def has_begun(job: Job, step: Step) -> bool:
    """Return whether the step has begun since it was admitted."""
    return job.admission is None or job.admission.step != step or job.steps[step].attempt > job.admission.attempt


def wait_for_platform(job: Job, step: Step, *, reason: str, at: datetime) -> Changed:
    """Record that the platform has no machine for the step now.

    The job keeps its slot. This does not count as an attempt of the step. An attempt that ran until the platform took
    its machine away is ended.
    """
    record = job.steps[step]
    if record.state == "running":
        job = with_step(job, step, end_attempt(record, "stopped", at, reason))
    machine = step.value if job.admission is None else job.admission.machine
    return _wait(job, Waiting(machine=machine, reason=reason, position=0, since=at))


def _wait(job: Job, waiting: Waiting) -> Changed:
    """Record a wait; one for the same machine goes on since it began."""
    before = job.waiting
    if before is None or before.machine != waiting.machine:
        job = job.model_copy(update={"waiting": waiting})
        details = {name: getattr(waiting, name) for name in ("machine", "reason", "position")}
        return with_event(job, "job_waiting", waiting.since, **details)
    waiting = waiting.model_copy(update={"since": before.since})
    return (job if waiting == before else job.model_copy(update={"waiting": waiting})), ()
