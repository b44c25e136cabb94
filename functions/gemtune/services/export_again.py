"""Exports once more what a job has trained: a job of its own, which begins at export."""

from __future__ import annotations

from dataclasses import dataclass

from gemtune.errors import JobNotFound, NothingTrained
from gemtune.jobs import ids as job_ids
from gemtune.jobs.changes import steps_of_export
from gemtune.jobs.record import Job
from gemtune.ports import Buckets, JobStore
from gemtune.request.parsing import check_export
from gemtune.request.spec import ExportRequest, Spec, request_hash
from gemtune.services.create_job import CreateJob, Submission, same_request
from gemtune.services.submit import Submit


@dataclass(frozen=True, slots=True)
class ExportAgain:
    store: JobStore
    buckets: Buckets
    create: CreateJob
    submit: Submit

    def __call__(self, job_id: str, submission: Submission[ExportRequest]) -> Job:
        """Accept an export of what this job trained, and ask for its launch.

        Raises RequestRefused, JobNotFound, JobIsRunning, NothingTrained, KeyReused, JobWasDeleted, BadIdempotencyKey.
        """
        job = self._accept(job_id, submission)
        if job.launch.number == 0:  # a repeated request finds it launched
            self.submit.publish(job)
        return job

    def _accept(self, job_id: str, submission: Submission[ExportRequest]) -> Job:
        hashed, reading = submission.key_hash, submission.reading
        if hashed is not None and (holder := self.store.holder(hashed)) is not None:
            # Its parent was there when it was accepted, and need not be there still.
            return same_request(holder, request_hash(reading.accepted(), parent_job_id=job_id))
        parent = self._who_trained(job_id)
        steps = steps_of_export(parent)
        trained = Spec.model_validate_json(self.buckets.config.read(parent.spec_name))
        request = check_export(reading, trained, self.submit.rules()).accepted()
        new_id = job_ids.new_job_id(parent.processed_dataset_id, parent.base_model_id, key_hash=hashed, kind="export")
        return self.create(
            new_id,
            request.spec(),
            request.secrets(),
            submission,
            request_hash=request_hash(reading.accepted(), parent_job_id=job_id),
            parent_job_id=parent.job_id,
            steps=steps,
            metrics=parent.metrics,
            machine=parent.machine,
            export_machine=self.submit.placement.export_machine(request.spec()),
        )

    def _who_trained(self, job_id: str) -> Job:
        """This job, or its parent: what exports again has nothing of its own that could be exported."""
        job = self.store.get(job_id)
        if job.parent_job_id is None:
            return job
        try:
            return self.store.get(job.parent_job_id)
        except JobNotFound:
            raise NothingTrained(job_id) from None
