"""Rebuilding of a damaged table of slots, from what jobs' own records say."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from gemtune.admission.slots import LINGER, Holder, SlotTable, Waiter
from gemtune.jobs.record import Job
from gemtune.jobs.status import LAUNCHABLE
from gemtune.untrusted.damaged import fields_of, readable_in

# Name of the entries for slots whose holders are not known. No job has such an id.
UNKNOWN = "unknown"


def rebuilt(body: str, jobs: Iterable[Job], *, machine: str, capacity: int, at: datetime) -> SlotTable:
    """Return a table with the entries of a damaged one that can be read.

    Jobs that have a slot or wait for one by their records are added. All other slots are taken for LINGER: the steps of
    jobs that gave them up may still be ending, and no record names these. jobs: all unfinished ones.
    """
    stored = fields_of(body)
    holders = {each.job_id: each for each in readable_in(Holder, stored.get("holders"))}
    waiting = {each.job_id: each for each in readable_in(Waiter, stored.get("waiting"))}
    for job in jobs:
        if (holder := _holder(job, machine)) is not None:
            holders.setdefault(job.job_id, holder)
            waiting.pop(job.job_id, None)
        elif (waiter := _waiter(job, machine, at)) is not None and job.job_id not in holders:
            waiting.setdefault(job.job_id, waiter)
    ending = [
        Holder(job_id=f"{UNKNOWN}-{number}", launch=0, since=at, free_at=at + LINGER)
        for number in range(capacity - len(holders))
    ]
    queue = tuple(sorted(waiting.values(), key=lambda each: each.place))
    return SlotTable.model_validate({**stored, "holders": (*holders.values(), *ending), "waiting": queue})


def _holder(job: Job, machine: str) -> Holder | None:
    """Return a job's entry if its record shows that it has a slot."""
    admission = job.admission
    if job.claim is None or job.status not in LAUNCHABLE or admission is None or admission.machine != machine:
        return None
    step = next((record for name, record in job.steps.items() if name == admission.step), None)
    if step is not None and step.state == "done":
        return None
    return Holder(job_id=job.job_id, launch=job.claim.launch, since=admission.at)


def _waiter(job: Job, machine: str, at: datetime) -> Waiter | None:
    """Return a job's entry if its record shows that it waits for a slot.

    Its workflow counts as if it had just asked.
    """
    waiting = job.waiting
    if job.claim is None or job.status not in LAUNCHABLE or waiting is None:
        return None
    if (waiting.machine, waiting.reason) != (machine, "slot"):
        return None
    return Waiter(
        job_id=job.job_id, priority=job.priority, accepted_at=job.created_at, since=waiting.since, asked_at=at
    )
