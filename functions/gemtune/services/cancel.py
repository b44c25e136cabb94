"""Cancellation of a job by its user.

The record is changed first, so that nothing can undo it; then what runs is stopped.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gemtune.jobs import changes
from gemtune.jobs.record import Job
from gemtune.ports import Clock, JobStore, Launcher

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Service that cancels jobs."""

    store: JobStore
    launcher: Launcher
    clock: Clock

    def __call__(self, job_id: str) -> Job:
        """Cancel a job, and stop what runs for it.

        A record that cannot be read is replaced by what could be salvaged of it. Raises JobNotFound, JobIsOver.
        """
        now = self.clock.now()
        running: list[str] = []

        def change(job: Job) -> changes.Changed:
            steps = [step for step in job.steps.values() if step.state == "running"]
            running[:] = [step.execution for step in steps if step.execution is not None]
            return changes.cancel_job(job, at=now)

        job = self.store.update(job_id, change, salvage=True)
        try:
            for execution in running:
                self.launcher.stop_step(execution)
            workflow = job.launch.execution if job.claim is None else job.claim.execution
            if workflow is not None:
                self.launcher.stop(workflow)
        except Exception:
            # The record is cancelled: a trainer that still runs learns of it at its next heartbeat and stops by itself.
            log.exception("job %s is cancelled, but its running executions could not be stopped", job_id)
        return job
