"""Removes a job that is over, and all it left, but for a tombstone that keeps late messages from reviving it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gemtune.errors import JobHasChildren, JobIsRunning, VersionConflict
from gemtune.jobs.secret_names import job_secrets
from gemtune.ports import Buckets, Clock, JobStore, Secrets

TOMBSTONE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Delete:
    store: JobStore
    buckets: Buckets
    secrets: Secrets
    clock: Clock

    def __call__(self, job_id: str) -> None:
        """What was exported from it again stays, with the jobs that did.

        Raises JobNotFound, JobIsRunning, JobHasChildren.
        """
        while True:
            job = self.store.salvage(job_id)
            if not job.is_over:
                raise JobIsRunning(job_id, job.status)
            if children := self.store.unfinished_children(job_id):
                raise JobHasChildren(job_id, children)
            try:
                self.store.delete(job_id, version=job.version, tombstone_until=self.clock.now() + TOMBSTONE)
                break
            except VersionConflict:
                continue  # it changed, or got a child, between the look and the delete: look again
        for name in job_secrets(job):
            self.secrets.delete(name)
        if job.spec_name:  # else its record could not be read, and `sweep` removes the spec of a deleted job
            self.buckets.config.delete(job.spec_name)
        self.buckets.export.delete_prefix(f"jobs/{job_id}/")
