"""Ends a job on its user's word: the record first, so that nothing can undo it, then the machines."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gemtune.jobs import changes
from gemtune.jobs.record import Job
from gemtune.ports import Clock, JobStore, Launcher

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cancel:
    store: JobStore
    launcher: Launcher
    clock: Clock

    def __call__(self, job_id: str) -> Job:
        """Cancel a job, and stop what runs for it. A record that cannot be read becomes one that says so far what could
        be read of it, and is cancelled. Raises JobNotFound, JobIsOver."""
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
            # The record stands: a trainer that was missed sees it at its next heartbeat and stops by itself.
            log.exception("job %s is cancelled, but what runs for it could not be stopped", job_id)
        return job
