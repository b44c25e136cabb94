"""Answers about jobs, other than their status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from gemtune.handlers.answers.files import ArtifactLink
from gemtune.jobs.events import Event
from gemtune.jobs.parts.metrics import EvaluationMetrics
from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.parts.results import JobWarning
from gemtune.jobs.record import JobSummary
from gemtune.services.logs.read import LogPage
from gemtune.training_files.checkpoints import Checkpoint as StoredCheckpoint


class Accepted(BaseModel):
    """Answer to a request that was accepted."""

    job_id: str = Field(
        description="id of the new job, or of the one that the same request with the same Idempotency-Key created"
    )
    warnings: Sequence[JobWarning] = Field(
        (), description="what the user may not expect; the job was accepted nevertheless"
    )


class Planned(BaseModel):
    """Answer to a request that was only to be planned."""

    plan: Plan = Field(description="what the job would take; nothing was created")
    warnings: Sequence[JobWarning] = Field((), description="caps of the job that even the least of the plan exceeds")


class JobRequest(BaseModel):
    """Request of a job, which can be sent again."""

    request: Mapping[str, Any] = Field(
        description="the request as it was accepted, with its defaults, in the form that `path` takes"
    )
    path: str = Field(
        description="where to POST it: `/train`, or `/jobs/{job_id}/exports` of the job that trained, if this one only "
        "exports again"
    )
    left_out: Sequence[str] = Field(
        description="its fields that are not shown: tokens, other than references to stored secrets, and the webhook"
    )


class AcceptedOrPlanned(RootModel[Accepted | Planned]):
    """Answer to `POST /train`: a job, or with `dry_run=true` a plan."""


class JobList(BaseModel):
    """Page of the list of jobs."""

    jobs: Sequence[JobSummary] = Field(description="jobs, newest first")
    next_page_token: str | None = Field(description="`page_token` of the next page; null on the last page")


class JobEvents(BaseModel):
    """Events of a job."""

    events: Sequence[Event] = Field(description="events by `seq`, at most 500; repeat the call with `after` for more")


class LossHistory(BaseModel):
    """Loss curve of a job."""

    metrics: Sequence[dict[str, Any]] = Field(
        description="logged entries by train_step; each has `loss` and the values of a train_step, or `eval_loss` and "
        "other metrics of an evaluation"
    )


class JobLogLine(BaseModel):
    """Line of the output of a step."""

    step: str = Field(description="step that wrote it")
    attempt: int | None = Field(description="number of the attempt; null if its process ended before it began one")
    at: datetime | None = Field(description="when it was written; null on a workstation, whose lines begin with it")
    text: str = Field(description="the line, without tokens")


class JobLogs(BaseModel):
    """Page of the output of a job's steps."""

    lines: Sequence[JobLogLine] = Field(description="lines in the order of the attempts")
    next_after: str | None = Field(description="`after` for the lines that follow; null if there is no output yet")
    more: bool = Field(description="whether there are more lines already")

    @classmethod
    def of(cls, page: LogPage) -> JobLogs:
        """Return a page of output as the API answers it."""
        lines = [JobLogLine(step=each.step, attempt=each.attempt, at=each.at, text=each.text) for each in page.lines]
        return cls(lines=lines, next_after=page.next_after, more=page.more)


class Checkpoint(BaseModel):
    """Complete checkpoint of a training."""

    train_step: int = Field(description="train_step after which it was saved")
    attempt: int = Field(description="attempt of the train step that saved it")
    saved_at: datetime = Field(description="when it was complete")
    bytes: int = Field(description="size of its files")
    metrics: EvaluationMetrics | None = Field(
        description="metrics of held-out rows at this train_step; null if there was no evaluation"
    )
    is_best: bool = Field(
        description="whether its evaluation is the best of the listed ones: the lowest eval_loss, or the highest reward"
    )

    @classmethod
    def of(cls, checkpoint: StoredCheckpoint) -> Checkpoint:
        """Return a checkpoint as the API answers it."""
        return cls(**{name: getattr(checkpoint, name) for name in cls.model_fields})


class JobCheckpoints(BaseModel):
    """Checkpoints of a training."""

    checkpoints: Sequence[Checkpoint] = Field(
        description="complete checkpoints, newest first: the two newest, and the best one where the training keeps it; "
        "none once the training is finished"
    )


class JobArtifacts(BaseModel):
    """Files of a job's result."""

    artifacts: Sequence[ArtifactLink] = Field(description="files of the result, by name")


class Deleted(BaseModel):
    """Answer to the deletion of a job."""

    job_id: str = Field(description="id of the deleted job")
    deleted: Literal[True] = Field(True, description="always true")
