"""Deletion of a job that is over or paused, with everything it left.

A tombstone remains for a while, so that late messages cannot create the job again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from gemtune.errors import JobHasChildren, JobIsRunning, ObjectExists, VersionConflict
from gemtune.jobs.secret_names import job_secrets
from gemtune.jobs.status import Status
from gemtune.ports import Buckets, Clock, JobStore, Secrets
from gemtune.services.acceptance.create_job import NEW_SPECS, SPECS
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.cleanup.leftovers import TOMBSTONE


@dataclass(frozen=True, slots=True)
class Delete:
    """Service that deletes jobs."""

    store: JobStore
    buckets: Buckets
    secrets: Secrets
    clock: Clock
    budgets: OwnerBudgets

    def __call__(self, job_id: str) -> None:
        """Delete a job and its files.

        Other jobs that exported from this one stay. Jobs that trained on from it have to be deleted first.

        Raises JobNotFound, JobIsRunning, JobHasChildren.
        """
        while True:
            job = self.store.salvage(job_id)
            if not job.is_over and job.status != Status.PAUSED:
                raise JobIsRunning(job_id, job.status)
            if children := self.store.children_in_need(job_id):
                exporting = [child.job_id for child in children if child.only_exports]
                training = [child.job_id for child in children if not child.only_exports]
                raise JobHasChildren(job_id, exporting=exporting, training=training)
            if job.spec_name:  # so that `sweep` finds the spec if this is interrupted
                with suppress(ObjectExists):
                    self.buckets.config.create(f"{NEW_SPECS}{job.spec_name.removeprefix(SPECS)}", b"")
            self.budgets.enter(job)
            try:
                self.store.delete(job_id, version=job.version, tombstone_until=self.clock.now() + TOMBSTONE)
                break
            except VersionConflict:
                continue  # it changed, or got a child, since it was read: start over
        for name in job_secrets(job):
            self.secrets.delete(name)
        if job.spec_name:
            self.buckets.config.delete(job.spec_name)
        else:  # its record could not be read
            self.buckets.config.delete_prefix(f"{SPECS}{job_id}-")
        self.buckets.export.delete_prefix(f"jobs/{job_id}/")
