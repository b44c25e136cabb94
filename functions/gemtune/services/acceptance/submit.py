"""Submission: check a request, create its job, request a launch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gemtune.datasets.files.hub_dataset import short_name
from gemtune.errors import JobNotFound, ObjectNotFound, UnsafeName
from gemtune.jobs import ids
from gemtune.jobs.parts.results import JobWarning
from gemtune.jobs.record import Job
from gemtune.machines.choice import LOCAL
from gemtune.ports import Buckets, Bus, JobStore, Topic
from gemtune.request import placement, rules
from gemtune.request.facts import Facts
from gemtune.request.parsing import Reading
from gemtune.request.spec import Spec, TrainRequest, request_hash
from gemtune.services.acceptance.base_job import Continuation, FindBaseJob, deleted_meanwhile
from gemtune.services.acceptance.create_job import CreateJob, Submission, check_same_request
from gemtune.services.acceptance.read_facts import ReadFacts
from gemtune.untrusted import Unreadable, read_json_object

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submit:
    """Service that accepts requests to train.

    find_warnings: returns warnings about a valid request, from facts with the size of its model. check_budget: raises
    RequestRefused if an owner's budget is spent.
    """

    store: JobStore
    bus: Bus
    buckets: Buckets
    create: CreateJob
    read_facts: ReadFacts
    find_base_job: FindBaseJob
    find_warnings: Callable[[Spec, Facts], Sequence[JobWarning]]
    check_budget: Callable[[str], None]

    def __call__(self, submission: Submission[TrainRequest]) -> Job:
        """Accept a request and request its launch.

        Raises the errors of `accept`.
        """
        job, spec = self._accept(submission)
        if job.launch.number == 0:  # it may be launched already if the request is a repeated one
            self.publish(job, spec)
        return job

    def publish(self, job: Job, spec: Spec | None = None) -> None:
        """Publish the request for a launch, with the job's spec.

        The job is accepted already, so a failure here is only logged: `sweep` publishes again.
        spec: read from the config bucket if it is None.
        """
        try:
            fields = self._stored_spec(job) if spec is None else spec.model_dump(mode="json")
            message = json.dumps(fields | {"job_id": job.job_id})
            attributes = {"job_id": job.job_id}
            self.bus.publish(Topic.JOB_REQUESTS, message.encode(), attributes=attributes, durable=False)
        except Exception:
            log.exception("job %s is accepted, but job-requests did not take its message", job.job_id)

    def _stored_spec(self, job: Job) -> dict[str, Any]:
        """Return the spec as it is stored, whatever version wrote it.

        Empty if it is missing or unreadable: the job is launched nevertheless, and its first step fails and says why.
        """
        try:
            return read_json_object(self.buckets.config.read(job.spec_name))
        except (ObjectNotFound, UnsafeName, Unreadable) as error:
            log.warning("job %s is launched without its spec: %s", job.job_id, error)
            return {}

    def check(self, reading: Reading[TrainRequest]) -> Reading[TrainRequest]:
        """Check a request as `accept` does, without creating a job.

        Returns the request with all of its problems.
        """
        return reading if reading.request is None else rules.check(reading, self.read_facts(reading.request))

    def accept(self, submission: Submission[TrainRequest]) -> Job:
        """Return the request's job: a new one, or that of an earlier request.

        A request is the same as an earlier one if it has its idempotency key. Raises RequestRefused, KeyReused,
        JobWasDeleted, BadIdempotencyKey.
        """
        return self._accept(submission)[0]

    def rehearse(self, reading: Reading[TrainRequest], *, owner: str) -> tuple[Spec, Facts]:
        """Check everything that `accept` checks, and create nothing.

        Returns the spec that the job would have, and the facts that were read, among them the size of the model.
        owner: who would own the job. Raises RequestRefused.
        """
        request, facts, _ = self._checked(reading)
        self.check_budget(owner)
        return request.spec(), self._with_size(request, facts)

    def _warnings(self, request: TrainRequest, spec: Spec, facts: Facts) -> Sequence[JobWarning]:
        """Return warnings about a valid request's memory and caps.

        On Google Cloud a machine with enough memory is chosen, so nothing is read for them without caps.
        spec: of the request.
        """
        has_caps = any(cap is not None for cap in facts.deployment.caps.caps_of(request).values())
        may_warn = has_caps or LOCAL in facts.deployment.machines
        return self.find_warnings(spec, self._with_size(request, facts)) if may_warn else ()

    def _with_size(self, request: TrainRequest, facts: Facts) -> Facts:
        """Return the facts with the size of the model, if it can be known."""
        return replace(facts, size=facts.size or self.read_facts.size_to_plan(request, facts.base_model))

    def _checked(self, reading: Reading[TrainRequest]) -> tuple[TrainRequest, Facts, Continuation]:
        """Return a valid request, the facts, and the job that it trains on.

        Raises RequestRefused.
        """
        reading.require_readable()
        continuation = self.find_base_job(reading)
        facts = self.read_facts(continuation.reading.require_readable(), model_folder=continuation.model_folder)
        return rules.check(continuation.reading, facts).require_valid(), facts, continuation

    def _accept(self, submission: Submission[TrainRequest]) -> tuple[Job, Spec | None]:
        """Return the job, and its spec if the job is new."""
        key_hash, reading = submission.key_hash, submission.reading
        if key_hash is not None and (holder := self.store.find_by_key(key_hash)) is not None:
            return check_same_request(holder, request_hash(reading.require_valid().spec())), None
        sent = reading.require_readable()
        request, facts, continuation = self._checked(reading)
        self.check_budget(submission.owner)
        spec = request.spec()
        new_id = ids.new_job_id(
            short_name(spec.processed_dataset_id), spec.training_config.base_model_id, key_hash=key_hash
        )
        try:
            job = self.create(
                new_id,
                spec,
                request.secrets(),
                submission,
                request_hash=request_hash(spec if request is sent else sent.spec()),
                priority=spec.priority,
                pause_after=spec.pause_after,
                warnings=self._warnings(request, spec, facts),
                **facts.deployment.caps.caps_of(spec),
                machine=placement.machine(spec, facts),
                export_machine=placement.export_machine(spec, facts),
                **continuation.record,
            )
        except JobNotFound as error:  # of the base job
            raise deleted_meanwhile(str(spec.training_config.base_job_id)) from error
        return job, spec if job.job_id == new_id else None
