"""The job that a request trains on from: it is found and inherited from.

An adapter is trained on as the same adapter, so everything that decides its shape is that of the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gemtune.errors import (
    GemtuneError,
    JobIsRunning,
    JobNotFound,
    NothingTrained,
    Problem,
    RecordUnreadable,
    RequestRefused,
    SpecUnreadable,
)
from gemtune.jobs.changes import check_trained
from gemtune.jobs.record import BaseWeights, Job
from gemtune.jobs.status import Step
from gemtune.ports import Buckets, JobStore
from gemtune.request.contract import Loc
from gemtune.request.parsing import Reading
from gemtune.request.spec import Spec, TrainRequest
from gemtune.request.training_config import TrainingConfig
from gemtune.services.acceptance.stored_request import stored_spec

BASE_JOB: Loc = ("training_config", "base_job_id")
# Fields that decide which weights an adapter has and how they are scaled.
OF_ADAPTER = (
    "lora_rank",
    "lora_alpha",
    "target_modules",
    "use_rslora",
    "use_dora",
    "new_tokens",
    "train_embeddings",
    "train_vision_tower",
)


@dataclass(frozen=True, slots=True)
class Continuation:
    """A request with what it inherits from the job to train on from.

    record: fields for the new job's record.
    """

    reading: Reading[TrainRequest]
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_folder(self) -> str | None:
        """Return the folder of the base model, if another job trained it."""
        folder: str | None = self.record.get("base_model_folder")
        return folder


@dataclass(frozen=True, slots=True)
class FindBaseJob:
    """Service that completes requests with base_job_id."""

    store: JobStore
    buckets: Buckets

    def __call__(self, reading: Reading[TrainRequest]) -> Continuation:
        """Return the request with what it inherits, and what is wrong with it.

        A request without base_job_id is returned as it is.
        """
        request = reading.request
        if request is None or request.training_config.base_job_id is None:
            return Continuation(reading)
        try:
            parent = self._training_job(request.training_config.base_job_id)
            trained = stored_spec(self.buckets, parent)
        except (JobNotFound, JobIsRunning, NothingTrained, RecordUnreadable, SpecUnreadable) as error:
            return Continuation(Reading(request, (*reading.problems, problem_of(error))))
        request, problems = continue_from(request, parent.job_id, trained)
        record = self._record(parent, is_adapter=trained.training_config.method != "Full")
        return Continuation(Reading(request, (*reading.problems, *problems)), record)

    def _training_job(self, job_id: str) -> Job:
        """Return the job with the weights: this one, or what it exports.

        Raises JobNotFound, JobIsRunning, NothingTrained.
        """
        job = self.store.get(job_id)
        job = self.store.get(job.trained_by)
        check_trained(job)
        return job

    def _record(self, parent: Job, *, is_adapter: bool) -> dict[str, Any]:
        """Return the fields of a new job's record that name its parent."""
        folder = f"jobs/{parent.job_id}/{'adapter' if is_adapter else 'model'}/{parent.steps[Step.TRAIN].attempt}"
        prepared = f"jobs/{parent.job_id}/prepared/{parent.steps[Step.PREPARE].attempt}"
        return {
            "parent_job_id": parent.job_id,
            "lineage": (parent.job_id, *parent.lineage),
            "base_weights": BaseWeights(folder=folder, prepared=prepared, is_adapter=is_adapter),
            "base_model_folder": parent.base_model_folder if is_adapter else folder,
        }


def problem_of(error: GemtuneError) -> Problem:
    """Return the problem of a base_job_id that cannot be used."""
    match error:
        case JobNotFound():
            return Problem(BASE_JOB, error.message, "base_job_not_found", "it may be deleted: list jobs with GET /jobs")
        case JobIsRunning():
            return Problem(BASE_JOB, error.message, "base_job_not_finished", "wait until it is over")
        case _:
            hint = "name a job whose train step is done, or train from a base model"
            return Problem(BASE_JOB, error.message, "base_job_unusable", hint)


def deleted_meanwhile(job_id: str) -> RequestRefused:
    """Return the refusal of a request whose base job was just deleted."""
    return RequestRefused([problem_of(JobNotFound(job_id))])


def continue_from(request: TrainRequest, job_id: str, trained: Spec) -> tuple[TrainRequest, list[Problem]]:
    """Return the request with what it inherits from a job, and what is wrong.

    job_id: the job to train on from, which replaces base_job_id. It may differ from it: if that only exported, it is
    the job that trained. trained: its spec.
    """
    config, parent = request.training_config, trained.training_config
    problems = _other_method(config, job_id, parent)
    names = ["base_model_id", *(OF_ADAPTER if parent.method != "Full" else ())]
    if parent.method != "Full" and parent.train_vision_tower and request.modality != "vision":
        message = f"job {job_id!r} trained the vision tower too, so rows need modality vision"
        problems.append(Problem(("modality",), message, "differs_from_base_job", "use modality vision"))
        names.remove("train_vision_tower")
    inherited: dict[str, Any] = {"base_job_id": job_id}
    for name in names:
        stated, value = getattr(config, name), getattr(parent, name)
        if name in config.model_fields_set and stated != "" and _comparable(stated) != _comparable(value):
            problems.append(_differs(name, job_id, value))
        inherited[name] = value
    completed = config.model_copy(update=inherited)
    return request.model_copy(update={"training_config": completed}), problems


def _other_method(config: TrainingConfig, job_id: str, parent: TrainingConfig) -> list[Problem]:
    """Refuse method Full after a job that trained an adapter."""
    if config.method != "Full" or parent.method == "Full":
        return []
    message = f"job {job_id!r} trained an adapter, and method Full trains all weights"
    hint = "use LoRA, QLoRA or RL; or export that job as merged, and name the folder as base_model_id"
    return [Problem(("training_config", "method"), message, "differs_from_base_job", hint)]


def _comparable(value: object) -> object:
    """Return a field's value for comparison, without the order of a list."""
    return sorted(value) if isinstance(value, list) else value


def _differs(name: str, job_id: str, value: object) -> Problem:
    """Return the problem of a field that differs from the job's."""
    message = f"job {job_id!r} has another {name}, and what it trained is trained on as it is"
    hint = f"leave {name} out" if isinstance(value, str) else f"use {value!r}, or leave {name} out"
    return Problem(("training_config", name), message, "differs_from_base_job", hint)
