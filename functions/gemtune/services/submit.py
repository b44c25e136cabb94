"""Accepts a request: checks it against what is there, creates its job, and asks for the launch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from gemtune import llama_cpp
from gemtune.errors import ObjectNotFound, Problem, SecretNotFound, UnsafeName
from gemtune.jobs import ids
from gemtune.jobs.record import Job
from gemtune.jobs.secret_names import REFERENCE
from gemtune.ports import Buckets, Bus, JobStore, Secrets, Topic
from gemtune.request import base_model
from gemtune.request.parsing import check
from gemtune.request.rule import Rule
from gemtune.request.spec import TrainRequest, request_hash
from gemtune.services.create_job import CreateJob, Submission, same_request
from gemtune.services.placement import Placement
from gemtune.webhooks import destinations

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submit:
    store: JobStore
    bus: Bus
    buckets: Buckets
    secrets: Secrets
    create: CreateJob
    local_folders: bool  # whether a base model may be a folder of this machine
    webhooks_to_loopback: bool  # whether a webhook may be on this machine
    has_hf_token: bool  # whether jobs without a Hub token use the service's
    has_unsloth: bool  # whether trainings by unsloth have an environment to run in
    wandb_needs_key: bool  # whether a request that wants W&B has to bring a key of its own
    placement: Placement
    no_gguf: Callable[[], Problem | None]  # why this deployment cannot write GGUF, when it cannot

    def __call__(self, submission: Submission[TrainRequest]) -> Job:
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

    def accept(self, submission: Submission[TrainRequest]) -> Job:
        """The job of this request, new or known by its idempotency key.

        Raises RequestRefused, KeyReused, JobWasDeleted, BadIdempotencyKey.
        """
        hashed = submission.key_hash
        if hashed is not None and (holder := self.store.holder(hashed)) is not None:
            return same_request(holder, request_hash(submission.reading.accepted().spec()))
        request = check(submission.reading, self.rules()).accepted()
        spec = request.spec()
        new_id = ids.new_job_id(spec.processed_dataset_id, spec.training_config.base_model_id, key_hash=hashed)
        return self.create(
            new_id,
            spec,
            request.secrets(),
            submission,
            request_hash=request_hash(spec),
            machine=self.placement.machine(spec),
            export_machine=self.placement.export_machine(spec),
        )

    def rules(self) -> tuple[Rule, ...]:
        """What can only be checked against what is there."""
        return (
            Rule((("processed_dataset_id",),), self._dataset_problems),
            Rule((("training_config", "base_model_id"),), self._base_model_problems),
            Rule((("modality",), ("training_config", "base_model_id")), self._sight_problems),
            Rule((("hf_token",), ("wandb_config",)), self._secret_problems),
            Rule((("hf_token",), ("export_config", "destination")), self._token_problems),
            Rule((("wandb_config",),), self._wandb_problems),
            Rule((("training_config", "provider"),), self._provider_problems),
            Rule((("notify",),), self._webhook_problems),
            Rule((("training_config",), ("modality",)), self.placement.problems),
            Rule((("training_config", "base_model_id"), ("export_config", "format")), self._gguf_problems),
            Rule((("training_config",), ("export_config",)), self.placement.export_problems),
        )

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

    def _sight_problems(self, request: TrainRequest) -> list[Problem]:
        named = base_model.read(request.training_config.base_model_id)
        if request.modality == "text" or named is None or named.kind == "hub":
            return []
        try:
            config = json.loads(self._base_model_config(named))
        except (OSError, ObjectNotFound, UnsafeName, ValueError):
            return []  # which is another rule's problem
        if base_model.sees(config):
            return []
        hint = "use gemma-3-4b-it or larger, or modality text"
        return [Problem(("modality",), "this base model cannot be shown pictures", "model_without_vision", hint)]

    def _gguf_problems(self, request: TrainRequest) -> list[Problem]:
        """By the base model's configuration where it is at hand, else by its name; prepare looks again."""
        if request.export_config.format != "gguf":
            return []
        named = base_model.read(request.training_config.base_model_id)
        assert named is not None, "request.parse lets no other id through"
        if named.kind == "hub":
            family = llama_cpp.problem_of_name(named.place)
        else:
            try:
                config = json.loads(self._base_model_config(named))
                family = llama_cpp.problem_of_kind(str(config["model_type"]))
            except (OSError, ObjectNotFound, UnsafeName, ValueError, KeyError, TypeError):
                family = None  # the rule about the base model says it
        return [problem for problem in (self.no_gguf(), family) if problem is not None]

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

    def _token_problems(self, request: TrainRequest) -> list[Problem]:
        if request.export_config.destination != "hfhub" or request.hf_token is not None or self.has_hf_token:
            return []
        hint = "send one with write access; `gemtune secret NAME` keeps it"
        return [Problem(("hf_token",), "hfhub needs a token of the Hub", "missing_field", hint)]

    def _provider_problems(self, request: TrainRequest) -> list[Problem]:
        if request.training_config.provider != "unsloth" or self.has_unsloth:
            return []
        hint = "use huggingface; who runs the service can install unsloth by `make unsloth`"
        return [Problem(("training_config", "provider"), "this service has no unsloth", "unsloth_missing", hint)]

    def _wandb_problems(self, request: TrainRequest) -> list[Problem]:
        if request.wandb_config is None or request.wandb_config.api_key is not None or not self.wandb_needs_key:
            return []
        message = "W&B needs a key, and this service has none of its own"
        return [Problem(("wandb_config", "api_key"), message, "missing_field", "send one, or leave wandb_config out")]

    def _webhook_problems(self, request: TrainRequest) -> list[Problem]:
        url = None if request.notify is None else request.notify.webhook_url
        problem = None if url is None else destinations.problem_of(url, to_loopback=self.webhooks_to_loopback)
        return [] if problem is None else [problem]


DATASET_FILES = ("metadata.json", "train.jsonl", "train.parquet", "training.jsonl", "training.parquet")
