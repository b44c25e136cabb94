"""Pausing and resuming of a job by its user."""

from __future__ import annotations

from dataclasses import dataclass

from gemtune.admission import caps, pauses
from gemtune.jobs import changes
from gemtune.jobs.record import Job
from gemtune.jobs.status import Status
from gemtune.machines.cap_policy import CapPolicy
from gemtune.machines.cost import Prices
from gemtune.ports import Clock, JobStore
from gemtune.request.parsing import Reading
from gemtune.request.spec import ResumeRequest
from gemtune.services.acceptance.submit import Submit
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.stop_executions import StopExecutions

# A request to resume a job with the caps that it has.
UNCHANGED = Reading(ResumeRequest(), ())


@dataclass(frozen=True, slots=True)
class Pause:
    """Service that pauses jobs."""

    store: JobStore
    stop: StopExecutions
    clock: Clock

    def __call__(self, job_id: str) -> Job:
        """Pause a job: at once if no step runs, or else at a whole checkpoint.

        Raises JobNotFound, RecordUnreadable, JobIsOver, CannotPause.
        """
        now, before = self.clock.now(), list[Job]()

        def change(job: Job) -> changes.Changed:
            before[:] = [job]
            return pauses.request_pause(job, reason="request", at=now)

        job = self.store.update(job_id, change)
        if job.status is Status.PAUSED and before[0].status is not Status.PAUSED:
            self.stop(before[0])
        return job


@dataclass(frozen=True, slots=True)
class Resume:
    """Service that resumes paused jobs."""

    store: JobStore
    submit: Submit
    clock: Clock
    policy: CapPolicy
    prices: Prices
    budgets: OwnerBudgets

    def __call__(self, job_id: str, request: Reading[ResumeRequest] = UNCHANGED) -> Job:
        """Queue a paused job again, or withdraw the request for a pause.

        Raises JobNotFound, RecordUnreadable, JobIsOver, JobNotPaused, CapReached, and RequestRefused for caps that are
        higher than allowed, or if its owner's budget is spent.
        """
        raised, now = self._checked(request), self.clock.now()
        before = self.store.get(job_id)
        if before.status is Status.PAUSED:
            self.budgets.check(before.owner)

        def change(job: Job) -> changes.Changed:
            requested = {"max_cost_usd": raised.max_cost_usd, "max_hours": raised.max_hours}
            return caps.resume(job, self.prices, at=now, **requested)

        job = self.store.update(job_id, change)
        if job.status is Status.QUEUED:
            self.submit.publish(job)
        return job

    def _checked(self, reading: Reading[ResumeRequest]) -> ResumeRequest:
        """Return a valid request. Raises RequestRefused."""
        request = reading.require_readable()
        return Reading(request, (*reading.problems, *self.policy.problems_of(request))).require_valid()
