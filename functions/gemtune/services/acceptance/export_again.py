"""Another export of what a job has trained.

It becomes a job of its own, whose only step is the export.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemtune.datasets.files.hub_dataset import short_name
from gemtune.errors import JobNotFound, NothingTrained
from gemtune.jobs import ids as job_ids
from gemtune.jobs.changes import steps_of_export
from gemtune.jobs.record import Job
from gemtune.ports import Buckets, JobStore
from gemtune.request import placement, rules
from gemtune.request.parsing import complete_export_request
from gemtune.request.spec import ExportRequest, Spec, request_hash
from gemtune.services.acceptance.create_job import CreateJob, Submission, check_same_request
from gemtune.services.acceptance.stored_request import stored_spec
from gemtune.services.acceptance.submit import Submit


@dataclass(frozen=True, slots=True)
class ExportAgain:
    """Service that accepts requests for another export of a trained model."""

    store: JobStore
    buckets: Buckets
    create: CreateJob
    submit: Submit

    def __call__(self, job_id: str, submission: Submission[ExportRequest]) -> Job:
        """Accept another export of what a job trained, and request its launch.

        Raises RequestRefused, JobNotFound, JobIsRunning, NothingTrained, KeyReused, JobWasDeleted, BadIdempotencyKey,
        SpecUnreadable.
        """
        job, spec = self._accept(job_id, submission)
        if job.launch.number == 0:  # it may be launched already if the request is a repeated one
            self.submit.publish(job, spec)
        return job

    def _accept(self, job_id: str, submission: Submission[ExportRequest]) -> tuple[Job, Spec | None]:
        """Return the job, and its spec if the job is new."""
        key_hash, reading = submission.key_hash, submission.reading
        if key_hash is not None and (holder := self.store.find_by_key(key_hash)) is not None:
            # The parent existed when that job was accepted, but may have been deleted since.
            return check_same_request(holder, request_hash(reading.require_valid(), parent_job_id=job_id)), None
        parent = self._training_job(job_id)
        steps = steps_of_export(parent)
        trained = stored_spec(self.buckets, parent)
        completed = complete_export_request(reading, trained)
        facts = self.submit.read_facts(
            completed.require_readable(), trains=False, model_folder=parent.base_model_folder
        )
        request = rules.check(completed, facts, about=ExportRequest).require_valid()
        self.submit.check_budget(submission.owner)
        spec = request.spec()
        new_id = job_ids.new_job_id(
            short_name(parent.processed_dataset_id), parent.base_model_id, key_hash=key_hash, kind="export"
        )
        job = self.create(
            new_id,
            spec,
            request.secrets(),
            submission,
            request_hash=request_hash(reading.require_valid(), parent_job_id=job_id),
            parent_job_id=parent.job_id,
            lineage=parent.lineage,
            base_model_folder=parent.base_model_folder,
            steps=steps,
            priority=spec.priority,
            **facts.deployment.caps.caps_of(spec),
            metrics=parent.metrics,
            rows=parent.rows,
            machine=parent.machine,
            export_machine=placement.export_machine(spec, facts),
        )
        return job, spec if job.job_id == new_id else None

    def _training_job(self, job_id: str) -> Job:
        """Return the job that trained what can be exported.

        That is this job, or its parent if this one only exports. Raises JobNotFound, and NothingTrained when the parent
        was deleted.
        """
        job = self.store.get(job_id)
        try:
            return self.store.get(job.trained_by) if job.only_exports else job
        except JobNotFound:
            raise NothingTrained(job_id) from None
