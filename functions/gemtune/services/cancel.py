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
        """Raises JobNotFound, JobIsOver."""
        now = self.clock.now()
        running: list[str] = []

        def change(job: Job) -> changes.Changed:
            here = job.running_step
            execution = None if here is None else job.steps[here].execution
            running[:] = [] if execution is None else [execution]
            return changes.cancelled(job, at=now)

        job = self.store.update(job_id, change)
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
