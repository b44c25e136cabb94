"""Cancellation of a job by its user.

The record is changed first, so that nothing can undo it; then what runs is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemtune.jobs import changes
from gemtune.jobs.record import Job
from gemtune.ports import Clock, JobStore
from gemtune.services.stop_executions import StopExecutions


@dataclass(frozen=True, slots=True)
class Cancel:
    """Service that cancels jobs."""

    store: JobStore
    stop: StopExecutions
    clock: Clock

    def __call__(self, job_id: str) -> Job:
        """Cancel a job, and stop what runs for it or is about to.

        A record that cannot be read is replaced by what could be salvaged of it. Raises JobNotFound, JobIsOver.
        """
        now, before = self.clock.now(), list[Job]()

        def change(job: Job) -> changes.Changed:
            before[:] = [job]
            return changes.cancel_job(job, at=now)

        cancelled = self.store.update(job_id, change, salvage=True)
        self.stop(before[0])
        return cancelled
