"""Pausing and resuming of a job by its user."""

from __future__ import annotations

from dataclasses import dataclass

from gemtune.admission import pauses
from gemtune.jobs import changes
from gemtune.jobs.record import Job
from gemtune.jobs.status import Status
from gemtune.ports import Clock, JobStore
from gemtune.services.acceptance.submit import Submit
from gemtune.services.stop_executions import StopExecutions


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

    def __call__(self, job_id: str) -> Job:
        """Queue a paused job again, or withdraw the request for a pause.

        Raises JobNotFound, RecordUnreadable, JobIsOver, JobNotPaused.
        """
        now = self.clock.now()
        job = self.store.update(job_id, lambda job: pauses.resume(job, at=now))
        if job.status is Status.QUEUED:
            self.submit.publish(job)
        return job
