"""Accepts a request: checks it against what is there, keeps its secrets and its spec, and creates the record."""

from __future__ import annotations

import json
import logging
import secrets as randomness
from dataclasses import dataclass
from typing import Literal

from gemtune import base_model, job_id, webhook
from gemtune.errors import (
    BadIdempotencyKey,
    JobWasDeleted,
    KeyReused,
    ObjectNotFound,
    Problem,
    SecretNotFound,
    UnsafeName,
)
from gemtune.job import Job, Status, accepted, key_hash
from gemtune.ports import Buckets, Bus, Clock, JobStore, Secrets, Topic
from gemtune.redaction import looks_secret
from gemtune.request import Reading
from gemtune.rules import Rule
from gemtune.services.job_secrets import OWN_PREFIX, REFERENCE, SECRET_TTL, own_name
from gemtune.services.placement import Placement
from gemtune.spec import Spec, TrainRequest, request_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as it was read, who sends it, by which way, and under which key."""

    reading: Reading
    source: Literal["http", "pubsub", "upload"]
    owner: str
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Submit:
    store: JobStore
    bus: Bus
    buckets: Buckets
    secrets: Secrets
    clock: Clock
    local_folders: bool  # whether a base model may be a folder of this machine
    webhooks_to_loopback: bool  # whether a webhook may be on this machine
    placement: Placement

    def __call__(self, submission: Submission) -> Job:
        """Accept a request and ask for its launch. Raises what `accept` raises."""
        job = self.accept(submission)
        if job.launch.number == 0:  # a repeated request finds it launched
            self.publish(job)
        return job

    def publish(self, job: Job) -> None:
        """Ask for a launch, with the job's spec. The job is accepted already, so a failure here is only logged:
        `sweep` asks again."""
        try:
            spec = json.loads(self.buckets.config.read(job.spec_name))
            message = json.dumps(spec | {"job_id": job.job_id})
            self.bus.publish(Topic.JOB_REQUESTS, message.encode(), attributes={"job_id": job.job_id})
        except Exception:
            log.exception("job %s is accepted, but job-requests did not take its message", job.job_id)

    def accept(self, submission: Submission) -> Job:
        """The job of this request, new or known by its idempotency key.

        Raises RequestRefused, KeyReused, JobWasDeleted, BadIdempotencyKey.
        """
        _check_key(submission.idempotency_key)
        key, reading = submission.idempotency_key, submission.reading
        hashed = None if key is None else key_hash(submission.source, submission.owner, key)
        known = None if hashed is None else self.store.holder(hashed)
        if known is not None:  # what it asks for was there when it was accepted, and need not be there still
            return _same_request(known, reading.accepted().spec())
        return self._create(submission, reading.check(self._rules()).accepted(), hashed)

    def _rules(self) -> tuple[Rule, ...]:
        """What can only be checked against what is there."""
        return (
            Rule((("processed_dataset_id",),), self._dataset_problems),
            Rule((("training_config", "base_model_id"),), self._base_model_problems),
            Rule((("hf_token",), ("wandb_config",)), self._secret_problems),
            Rule((("notify",),), self._webhook_problems),
            Rule((("training_config",), ("modality",)), self.placement.problems),
        )

    def _create(self, submission: Submission, request: TrainRequest, hashed: str | None) -> Job:
        """Secrets, spec, record: in this order, so that a record never names what is not there. Names end in a nonce
        of this request, so that two requests with one key never share them; the one that loses removes its own."""
        spec = request.spec()
        machine = self.placement.machine(spec)
        now, nonce = self.clock.now(), randomness.token_hex(8)
        new_id = job_id.new_job_id(spec.processed_dataset_id, spec.training_config.base_model_id, key_hash=hashed)
        spec_name = f"specs/{new_id}-{nonce}.json"
        names = self._keep_secrets(request, new_id, nonce)
        self.buckets.config.create(spec_name, spec.model_dump_json(indent=2).encode())
        job = Job(
            job_id=new_id,
            job_name=spec.job_name,
            status=Status.QUEUED,
            modality=spec.modality,
            base_model_id=spec.training_config.base_model_id,
            processed_dataset_id=spec.processed_dataset_id,
            spec_uri=self.buckets.config.uri(spec_name),
            spec_name=spec_name,
            machine=machine,
            secret_names=names,
            source=submission.source,
            owner=submission.owner,
            idempotency_key=submission.idempotency_key,
            request_hash=request_hash(spec),
            webhook_url=None if spec.notify is None else spec.notify.webhook_url,
            created_at=now,
            updated_at=now,
        )
        job, (event,) = accepted(job)
        try:
            created = self.store.create(job, event)
        except JobWasDeleted:
            self._remove_own(names, spec_name)
            raise
        # Any other error leaves open whether the record is there, so nothing is removed: `sweep` knows later.
        if not created.is_new:
            self._remove_own(names, spec_name)
            return _same_request(created.job, spec)
        return job

    def _keep_secrets(self, request: TrainRequest, new_id: str, nonce: str) -> dict[str, str]:
        names = {}
        for role, value in request.secrets().items():
            if value.startswith(REFERENCE):
                names[role] = value.removeprefix(REFERENCE)
                continue
            names[role] = own_name(new_id, role, nonce)
            self.secrets.create(names[role], value, ttl=SECRET_TTL)
        return names

    def _remove_own(self, names: dict[str, str], spec_name: str) -> None:
        for name in names.values():
            if name.startswith(OWN_PREFIX):
                self.secrets.delete(name)
        self.buckets.config.delete(spec_name)

    def _dataset_problems(self, request: TrainRequest) -> list[Problem]:
        folder = f"processed_datasets/{request.processed_dataset_id}"
        if any(self.buckets.data.stat(f"{folder}/{name}") for name in DATASET_FILES):
            return []
        hint = f"put train.jsonl or train.parquet into {self.buckets.data.uri(folder)}"
        message = f"there is no dataset {request.processed_dataset_id!r}"
        return [Problem(("processed_dataset_id",), message, "dataset_not_found", hint)]

    def _base_model_problems(self, request: TrainRequest) -> list[Problem]:
        loc = ("training_config", "base_model_id")
        named = base_model.read(request.training_config.base_model_id)
        assert named is not None, "request.parse lets no other id through"
        if named.kind == "hub":
            return []
        if named.kind == "folder" and not self.local_folders:
            hint = "use a Hub id or gs://bucket/folder"
            return [Problem(loc, "this service has no local folders", "bad_base_model", hint)]
        try:
            config = json.loads(self._base_model_config(named))
        except (OSError, ObjectNotFound, UnsafeName):
            hint = "the folder holds config.json, *.safetensors and the tokenizer's files"
            return [Problem(loc, "there is no config.json in this folder", "base_model_not_found", hint)]
        except ValueError:
            return [Problem(loc, "its config.json is not JSON", "bad_base_model", "save the model again")]
        kind = str(config.get("model_type")) if isinstance(config, dict) else "unknown"
        if not kind.startswith("gemma"):
            return [Problem(loc, f"it is a {kind[:40]} model, not a Gemma", "not_a_gemma", "use a Gemma model")]
        return []

    def _base_model_config(self, named: base_model.BaseModel) -> bytes:
        if named.kind == "folder":
            return base_model.config_of_folder(named)
        bucket, _, folder = named.place.partition("/")
        objects = self.buckets.named(bucket)
        if objects is None:
            raise ObjectNotFound(f"{bucket!r} is not a bucket of this service")
        return objects.read(f"{folder}/config.json")

    def _secret_problems(self, request: TrainRequest) -> list[Problem]:
        problems = []
        for role, value in request.secrets().items():
            if value.startswith(REFERENCE):
                try:
                    self.secrets.read(value.removeprefix(REFERENCE))
                except SecretNotFound as error:
                    loc = ("hf_token",) if role == "hf_token" else ("wandb_config", "api_key")
                    problems.append(Problem(loc, error.message, error.code, error.hint))
        return problems

    def _webhook_problems(self, request: TrainRequest) -> list[Problem]:
        url = None if request.notify is None else request.notify.webhook_url
        problem = None if url is None else webhook.problem_of(url, to_loopback=self.webhooks_to_loopback)
        return [] if problem is None else [problem]


DATASET_FILES = ("metadata.json", "train.jsonl", "train.parquet", "training.jsonl", "training.parquet")


def _check_key(key: str | None) -> None:
    # As an attribute of a message it has at most 1024 bytes.
    if key is not None and (
        not 0 < len(key.encode(errors="replace")) <= 1024 or not key.isprintable() or looks_secret(key)
    ):
        raise BadIdempotencyKey()


def _same_request(job: Job, spec: Spec) -> Job:
    if job.request_hash != request_hash(spec):
        raise KeyReused()
    return job
