"""The bodies of the API's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

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
    job_id: str = Field(
        description="the new job, or the one that the same request with the same Idempotency-Key made before"
    )


class JobList(BaseModel):
    jobs: Sequence[JobSummary] = Field(description="the newest first")
    next_page_token: str | None = Field(description="`page_token` of the next page; null on the last one")


class StepStatus(BaseModel):
    """How far a step is; `checkpoint` is the train_step of its newest whole checkpoint, `attempts` are those that are
    over."""

    state: str = Field(description="`pending`, `running`, `stopped`, `done` or `failed`")
    attempt: int = Field(description="number of the newest attempt; 0 before the first")
    execution: str | None = Field(description="the platform's name of its execution")
    started_at: datetime | None = Field(description="when the newest attempt began")
    seconds: float = Field(description="how long all attempts ran, together")
    heartbeat_at: datetime | None = Field(description="when the running attempt was last heard of")
    cause: str | None = Field(description="how the newest attempt ended; null while it runs and when the step is done")
    checkpoint: int = Field(description="train_step of the newest whole checkpoint")
    attempts: Sequence[Attempt] = Field(description="attempts that are over")

    @classmethod
    def of(cls, step: StepRecord) -> StepStatus:
        return cls(**{name: getattr(step, name) for name in cls.model_fields})


class JobStatus(BaseModel):
    """A job as its user sees it: `error` is the sentence, `error_detail` the rest."""

    job_id: str = Field(description="the job")
    parent_job_id: str | None = Field(description="the job whose training result this one exports again")
    job_name: str = Field(description="its name for people")
    status: OpenStatus = Field(description="where the job is")
    modality: str = Field(description="`text` or `vision`")
    base_model_id: str = Field(description="as requested")
    processed_dataset_id: str = Field(description="as requested")
    machine: str | None = Field(description="the machine that trains it; null until it is chosen")
    cost_usd: float | None = Field(
        description="estimate by list prices, once it is over; null on a workstation, or without a price"
    )
    wandb_url: str | None = Field(description="where W&B shows the training")
    adapter_path: str | None = Field(description="where the result is, once the job is completed")
    error: str | None = Field(description="one sentence; null unless the job failed")
    error_detail: Failure | None = Field(description="code, step and what to do; null unless the job failed")
    warnings: Sequence[JobWarning] = Field(description="what is trained otherwise than the dataset has it")
    metrics: Metrics | None = Field(description="after training, with those of the untrained base model")
    progress: Progress | None = Field(description="of the train step")
    steps: Mapping[OpenStep, StepStatus] = Field(description="by name")
    artifacts: Sequence[Artifact] = Field(description="files of the result")
    certificate: Parity | None = Field(description="comparison of the export with the trained model")
    source: OpenSource = Field(description="`http`, `pubsub` or `upload`")
    owner: str = Field(description="who asked for the job")
    created_at: datetime = Field(description="when it was accepted")
    updated_at: datetime = Field(description="when the record last changed")
    started_at: datetime | None = Field(description="when its first step began")
    finished_at: datetime | None = Field(description="when it was over")

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
    events: Sequence[Event] = Field(description="by `seq`; at most 500, ask again with `after`")


class LossHistory(BaseModel):
    """One entry per train_step that was logged: `loss` and what belongs to it, or `eval_loss` and the figures."""

    metrics: Sequence[dict[str, Any]] = Field(description="by train_step")


class ArtifactLink(BaseModel):
    """A file of the result: `url` reads it for an hour, without credentials; on a workstation `path` is the file."""

    name: str = Field(description="file name, relative to the result's folder")
    bytes: int = Field(description="its size")
    sha256: str = Field(description="its checksum in hexadecimal")
    url: str | None = Field(description="link that reads it for an hour without credentials; null on a workstation")
    path: str | None = Field(description="the file; null on Google Cloud")


class JobArtifacts(BaseModel):
    artifacts: Sequence[ArtifactLink] = Field(description="files of the result")


class Deleted(BaseModel):
    job_id: str = Field(description="the job")
    deleted: Literal[True] = Field(True, description="always")


class Health(BaseModel):
    status: Literal["healthy"] = Field("healthy", description="always")
    service: Literal["training"] = Field("training", description="always")


class ProblemAnswer(BaseModel):
    loc: Sequence[str | int] = Field(
        description="where it is: field names and list positions, or `query` or `header` and a parameter"
    )
    msg: str = Field(description="what is wrong")
    code: str = Field(description="for programs; it does not change")
    hint: str | None = Field(description="what to do")


class ErrorSentence(BaseModel):
    code: str = Field(description="for programs; it does not change")
    message: str = Field(description="one sentence, for people")
    hint: str | None = Field(description="what to do")


class ErrorAnswer(BaseModel):
    """`problems` stands only in a 422: everything that is wrong with the request."""

    error: ErrorSentence = Field(description="what went wrong")
    problems: Sequence[ProblemAnswer] | None = Field(
        None, description="only of status 422: everything that is wrong with the request"
    )
