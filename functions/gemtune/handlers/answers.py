"""The bodies of the API's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from gemtune.jobs.events import Event
from gemtune.jobs.record import (
    Artifact,
    Attempt,
    Failure,
    Job,
    JobSummary,
    JobWarning,
    Metrics,
    Parity,
    Progress,
    StepRecord,
)
from gemtune.jobs.sources import OpenSource
from gemtune.jobs.status import OpenStatus, OpenStep
from gemtune.machines import cost
from gemtune.machines.choice import LOCAL


class Accepted(BaseModel):
    job_id: str


class JobList(BaseModel):
    jobs: Sequence[JobSummary]
    next_page_token: str | None


class StepStatus(BaseModel):
    """How far a step is; `checkpoint` is the train_step of its newest whole checkpoint, `attempts` are those that are
    over."""

    state: str
    attempt: int
    execution: str | None
    started_at: datetime | None
    seconds: float
    heartbeat_at: datetime | None
    cause: str | None
    checkpoint: int
    attempts: Sequence[Attempt]

    @classmethod
    def of(cls, step: StepRecord) -> StepStatus:
        return cls(**{name: getattr(step, name) for name in cls.model_fields})


class JobStatus(BaseModel):
    """A job as its user sees it: `error` is the sentence, `error_detail` the rest."""

    job_id: str
    parent_job_id: str | None
    job_name: str
    status: OpenStatus
    modality: str
    base_model_id: str
    processed_dataset_id: str
    machine: str | None
    cost_usd: float | None
    wandb_url: str | None
    adapter_path: str | None
    error: str | None
    error_detail: Failure | None
    warnings: Sequence[JobWarning]
    metrics: Metrics | None
    progress: Progress | None
    steps: Mapping[OpenStep, StepStatus]
    artifacts: Sequence[Artifact]
    certificate: Parity | None
    source: OpenSource
    owner: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> JobStatus:
        own = {
            # Known once the job is over; a workstation's steps cost nothing that we know of.
            "cost_usd": cost.of_job(job) if job.is_over and job.machine != LOCAL else None,
            "error": None if job.error is None else job.error.message,
            "error_detail": job.error,
            "steps": {name: StepStatus.of(step) for name, step in job.steps.items()},
        }
        return cls(**own, **{name: getattr(job, name) for name in cls.model_fields if name not in own})


class JobEvents(BaseModel):
    events: Sequence[Event]


class LossHistory(BaseModel):
    """One entry per train_step that was logged: `loss` and what belongs to it, or `eval_loss` and the figures."""

    metrics: Sequence[dict[str, Any]]


class ArtifactLink(BaseModel):
    """A file of the result: `url` reads it for an hour, without credentials; on a workstation `path` is the file."""

    name: str
    bytes: int
    sha256: str
    url: str | None
    path: str | None


class JobArtifacts(BaseModel):
    artifacts: Sequence[ArtifactLink]


class Deleted(BaseModel):
    job_id: str
    deleted: Literal[True] = True


class Health(BaseModel):
    status: Literal["healthy"] = "healthy"
    service: Literal["training"] = "training"


class ProblemAnswer(BaseModel):
    loc: Sequence[str | int]
    msg: str
    code: str
    hint: str | None


class ErrorSentence(BaseModel):
    code: str
    message: str
    hint: str | None


class ErrorAnswer(BaseModel):
    """`problems` stands only in a 422: everything that is wrong with the request."""

    error: ErrorSentence
    problems: Sequence[ProblemAnswer] | None = None
