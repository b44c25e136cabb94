"""Accepts a request: checks it against the facts, creates its job, and asks for the launch."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from gemtune.errors import ObjectNotFound, UnsafeName
from gemtune.jobs import ids
from gemtune.jobs.record import Job
from gemtune.ports import Buckets, Bus, JobStore, Topic
from gemtune.request import placement, rules
from gemtune.request.spec import Spec, TrainRequest, request_hash
from gemtune.services.acceptance.create_job import CreateJob, Submission, check_same_request
from gemtune.services.acceptance.read_facts import ReadFacts
from gemtune.untrusted import Unreadable, read_json_object

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submit:
    store: JobStore
    bus: Bus
    buckets: Buckets
    create: CreateJob
    read_facts: ReadFacts

    def __call__(self, submission: Submission[TrainRequest]) -> Job:
        """Accept a request and ask for its launch. Raises what `accept` raises."""
        job, spec = self._accept(submission)
        if job.launch.number == 0:  # a repeated request finds it launched
            self.publish(job, spec)
        return job

    def publish(self, job: Job, spec: Spec | None = None) -> None:
        """Ask for a launch, with the job's spec; it is read when it is not given. The job is accepted already, so a
        failure here is only logged: `sweep` asks again."""
        try:
            fields = self._stored_spec(job) if spec is None else spec.model_dump(mode="json")
            message = json.dumps(fields | {"job_id": job.job_id})
            attributes = {"job_id": job.job_id}
            self.bus.publish(Topic.JOB_REQUESTS, message.encode(), attributes=attributes, durable=False)
        except Exception:
            log.exception("job %s is accepted, but job-requests did not take its message", job.job_id)

    def _stored_spec(self, job: Job) -> dict[str, Any]:
        """The spec as it is stored, whatever version wrote it. A job without one is launched too: its first step fails
        and says why."""
        try:
            return read_json_object(self.buckets.config.read(job.spec_name))
        except (ObjectNotFound, UnsafeName, Unreadable) as error:
            log.warning("job %s is launched without its spec: %s", job.job_id, error)
            return {}

    def accept(self, submission: Submission[TrainRequest]) -> Job:
        """Return the job of this request, new or known by its idempotency key.

        Raises RequestRefused, KeyReused, JobWasDeleted, BadIdempotencyKey.
        """
        return self._accept(submission)[0]

    def _accept(self, submission: Submission[TrainRequest]) -> tuple[Job, Spec | None]:
        """Return the job, and its spec if it is new."""
        key_hash, reading = submission.key_hash, submission.reading
        if key_hash is not None and (holder := self.store.find_by_key(key_hash)) is not None:
            return check_same_request(holder, request_hash(reading.require_valid().spec())), None
        sent = reading.require_readable()
        facts = self.read_facts(sent)
        request = rules.check(reading, facts).require_valid()
        spec = request.spec()
        new_id = ids.new_job_id(spec.processed_dataset_id, spec.training_config.base_model_id, key_hash=key_hash)
        job = self.create(
            new_id,
            spec,
            request.secrets(),
            submission,
            request_hash=request_hash(sent.spec()),
            machine=placement.machine(spec, facts),
            export_machine=placement.export_machine(spec, facts),
        )
        return job, spec if job.job_id == new_id else None
