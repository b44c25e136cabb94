"""Bodies of the API's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from gemtune import VERSION
from gemtune.checks.report import CheckError, CheckReport
from gemtune.checks.row import CheckedRow
from gemtune.datasets.uploads.record import PART_BYTES, DatasetFile
from gemtune.jobs.events import Event
from gemtune.jobs.parts.holds import Pause, Waiting
from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.record import (
    Artifact,
    Attempt,
    EvaluationMetrics,
    Failure,
    Job,
    JobSummary,
    JobWarning,
    Metrics,
    Parity,
    Progress,
    RowsSummary,
    StepRecord,
)
from gemtune.jobs.sources import OpenSource
from gemtune.jobs.status import OpenStatus, OpenStep, Status
from gemtune.machines import cost
from gemtune.machines.cost import Prices
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.datasets.catalogue import DatasetDescription
from gemtune.services.datasets.check import CheckState
from gemtune.services.logs.read import LogPage
from gemtune.services.planning.base_models import KnownModel, MethodNeed, ModelAtHand
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


class Spent(BaseModel):
    """Sum of what a job has taken so far, and the rest until its caps."""

    usd: float | None = Field(
        description="cost in USD by the prices of its machines; null if a price is not known, as that of a workstation "
        "unless it is stated"
    )
    hours: float = Field(
        description="hours that its steps ran, each attempt from its start to its end or last heartbeat"
    )
    usd_left: float | None = Field(
        description="USD until `max_cost_usd`; null without that cap, or if a price is not known"
    )
    hours_left: float | None = Field(description="hours until `max_hours`; null without that cap")

    @classmethod
    def of(cls, job: Job, prices: Prices) -> Spent:
        """Return what a job has taken."""
        spent = cost.spending(job, prices)
        hours = spent.seconds / 3600
        has_usd = job.max_cost_usd is not None and spent.usd is not None
        return cls(
            usd=None if spent.usd is None else round(spent.usd, 4),
            hours=round(hours, 5),
            usd_left=round(max(0.0, job.max_cost_usd - spent.usd), 4) if has_usd else None,  # type: ignore[operator]
            hours_left=None if job.max_hours is None else round(max(0.0, job.max_hours - hours), 5),
        )


class Account(BaseModel):
    """Sum of what the caller's jobs have taken this month, and the budget."""

    owner: str = Field(description="owner of the jobs: the caller")
    month: str = Field(description="calendar month in UTC, such as `2026-11`")
    usd: float | None = Field(description="cost of the jobs in USD; null if a price is not known")
    hours: float = Field(description="hours that their steps ran")
    budget_usd: float | None = Field(description="most that they may cost in a month; null without a budget")
    budget_hours: float | None = Field(description="most hours that they may run in a month; null without a budget")

    @classmethod
    def of(cls, owner: str, budgets: OwnerBudgets) -> Account:
        """Return an owner's account of the current month."""
        amount, budget = budgets.spent(owner), budgets.budget
        return cls(
            owner=owner,
            month=budgets.month(),
            usd=round(amount.usd, 4) if amount.is_priced else None,
            hours=round(amount.seconds / 3600, 5),
            budget_usd=budget.usd,
            budget_hours=budget.hours,
        )


class StepStatus(BaseModel):
    """State of one step of a job, with its past attempts."""

    state: str = Field(description="`pending`, `running`, `stopped`, `done` or `failed`")
    attempt: int = Field(description="number of the newest attempt; 0 before the first one")
    execution: str | None = Field(description="execution of the newest attempt, by the platform's name")
    started_at: datetime | None = Field(description="when the newest attempt began")
    seconds: float = Field(description="seconds that all past attempts ran, added up")
    heartbeat_at: datetime | None = Field(description="time of the newest attempt's last heartbeat")
    cause: str | None = Field(
        description="why the newest attempt ended unfinished; null while it runs and if the step is done"
    )
    phase: str | None = Field(
        description="what the running attempt does, in words, such as `evaluating the base model`; null if it does not "
        "run, and before it has said so"
    )
    checkpoint: int = Field(description="train_step of the newest complete checkpoint; 0: none")
    attempts: Sequence[Attempt] = Field(description="past attempts, oldest first")

    @classmethod
    def of(cls, step: StepRecord) -> StepStatus:
        """Return what a step's record shows to users."""
        return cls(**{name: getattr(step, name) for name in cls.model_fields})


class JobStatus(BaseModel):
    """State of a job, as its user sees it."""

    job_id: str = Field(description="id of the job")
    parent_job_id: str | None = Field(
        description="id of the job that trained, if this one only exports again, or of the job that it trains on from "
        "(`base_job_id`); otherwise null"
    )
    lineage: Sequence[str] = Field(
        description="ids of the jobs that trained before on the same weights: the nearest first, the root last"
    )
    job_name: str = Field(description="name that the request gave the job")
    status: OpenStatus = Field(description="current status")
    modality: str = Field(description="`text`, `vision` or `audio`")
    base_model_id: str = Field(description="base model, as the request named it")
    processed_dataset_id: str = Field(description="dataset, as the request named it")
    machine: str | None = Field(description="machine type that trains; null until it is chosen")
    priority: str = Field(description="place among the jobs that wait for a machine: `low`, `normal` or `high`")
    waiting: Waiting | None = Field(description="the machine that the job waits for; null if it does not wait")
    pause: Pause | None = Field(
        description="the pause of a `paused` job, or the one that a running step has been asked for; otherwise null"
    )
    plan: Plan | None = Field(description="what the job will take; null until prepare has counted its rows")
    plan_error: float | None = Field(
        description="by how much longer than planned the steps took, as a share: 0.1 for 10%; null until the job is "
        "completed"
    )
    max_cost_usd: float | None = Field(description="most that the job may cost in USD; null without such a cap")
    max_hours: float | None = Field(description="most hours that its steps may run; null without such a cap")
    spent: Spent = Field(description="what the job has taken so far")
    cost_usd: float | None = Field(
        description="cost in USD by the prices of its machines, once the job is over; null if a price is not known, as "
        "on a workstation whose price is not stated"
    )
    wandb_url: str | None = Field(description="page at W&B that shows the training; null without one")
    adapter_path: str | None = Field(description="URI of the result's folder; null until the job is completed")
    error: str | None = Field(description="why the job failed, in one sentence; null unless it failed")
    error_detail: Failure | None = Field(description="the same with code, step and hint; null unless the job failed")
    warnings: Sequence[JobWarning] = Field(description="what was done differently from what the user may expect")
    rows: RowsSummary | None = Field(
        description="what became of the dataset's rows, fields and files; null until they are prepared"
    )
    metrics: Metrics | None = Field(description="metrics after training, and those of the base model before it")
    progress: Progress | None = Field(description="progress of the training; null before it begins")
    steps: Mapping[OpenStep, StepStatus] = Field(description="steps by name, in the order in which they run")
    artifacts: Sequence[Artifact] = Field(description="files of the result")
    certificate: Parity | None = Field(description="comparison of the export with the trained model; null before it")
    source: OpenSource = Field(description="how the request came in: `http`, `pubsub` or `upload`")
    owner: str = Field(description="who sent the request")
    created_at: datetime = Field(description="when the job was accepted")
    updated_at: datetime = Field(description="when the job's record last changed")
    started_at: datetime | None = Field(description="when the first step began")
    finished_at: datetime | None = Field(description="when the job was completed, failed or cancelled")

    @classmethod
    def of(cls, job: Job, prices: Prices) -> JobStatus:
        """Return what a job's record shows to its user."""
        spent = Spent.of(job, prices)
        converted = {
            "waiting": job.waiting or _start_of(job),
            "plan_error": _plan_error(job),
            "spent": spent,
            "cost_usd": spent.usd if job.is_over else None,
            "error": None if job.error is None else job.error.message,
            "error_detail": job.error,
            "steps": {name: StepStatus.of(step) for name, step in job.steps.items()},
        }
        return cls(**converted, **{name: getattr(job, name) for name in cls.model_fields if name not in converted})


def _start_of(job: Job) -> Waiting | None:
    """Return the wait of a job whose step has its machine but did not begin."""
    admission = job.admission
    record = None if admission is None else job.steps.get(admission.step)
    if admission is None or record is None or record.attempt > admission.attempt:
        return None
    return Waiting(machine=admission.machine, reason="starting", position=0, since=admission.at)


def _plan_error(job: Job) -> float | None:
    """Return the relative error of a completed job's plan."""
    if job.status != Status.COMPLETED or job.plan is None or job.plan.minutes is None or not job.plan.minutes.expected:
        return None
    seconds = sum(step.seconds for step in job.steps.values())
    return round(seconds / 60 / job.plan.minutes.expected - 1, 3)


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


class FileLink(BaseModel):
    """Place of a file."""

    url: str | None = Field(
        description="link that reads the file without credentials, valid for an hour; null on a workstation"
    )
    path: str | None = Field(description="path of the file on a workstation; null on Google Cloud")


class ArtifactLink(FileLink):
    """File of a job's result, and where to read it."""

    name: str = Field(description="path of the file inside the result")
    bytes: int = Field(description="size of the file")
    sha256: str = Field(description="SHA-256 of the file's content, in hexadecimal")


class JobArtifacts(BaseModel):
    """Files of a job's result."""

    artifacts: Sequence[ArtifactLink] = Field(description="files of the result, by name")


class Deleted(BaseModel):
    """Answer to the deletion of a job."""

    job_id: str = Field(description="id of the deleted job")
    deleted: Literal[True] = Field(True, description="always true")


class Dataset(BaseModel):
    """A dataset: uploaded, or a folder of the data bucket."""

    dataset_id: str = Field(description="its id, for `processed_dataset_id`")
    name: str | None = Field(description="name for people; null for a folder that was not uploaded")
    tags: Sequence[str] = Field(description="words to find it by")
    files: Sequence[DatasetFile] = Field(description="its files; of a folder that was not uploaded, the first 200")
    created_at: datetime | None = Field(description="when its upload began; null for a folder that was not uploaded")
    status: Literal["uploading", "ready"] = Field(description="`ready`: jobs can use it")
    part_bytes: int = Field(PART_BYTES, description="size of every part of an upload but the last of a file")
    missing_parts: Mapping[int, Sequence[int]] = Field(
        description="numbers of the parts that are still to be sent, for each file by its number in `files`; empty "
        "when it is ready, and in lists"
    )

    @classmethod
    def of(cls, description: DatasetDescription, missing: Mapping[int, Sequence[int]]) -> Dataset:
        """Describe a dataset."""
        return cls(
            dataset_id=description.dataset_id,
            name=description.name,
            tags=description.tags,
            files=description.files,
            created_at=description.created_at,
            status="ready" if description.is_ready else "uploading",
            missing_parts=missing,
        )


class DatasetList(BaseModel):
    """One page of datasets."""

    datasets: Sequence[Dataset] = Field(description="datasets in the order of their ids")
    next_after: str | None = Field(description="`after` for the next page; null on the last one")


class DatasetFileLink(FileLink):
    """File of a dataset, and where to read it."""

    name: str = Field(description="path of the file inside the dataset")
    bytes: int = Field(description="size of the file")
    sha256: str | None = Field(
        description="SHA-256 of the file's content, in hexadecimal; null for a folder that was not uploaded"
    )


class DatasetFiles(BaseModel):
    """One page of the files of a dataset."""

    files: Sequence[DatasetFileLink] = Field(description="files in the order of their names")
    next_after: int | None = Field(description="`after` for the next page; null on the last one")


class PartStored(BaseModel):
    """Answer to a part of an upload."""

    file: int = Field(description="number of the file")
    part: int = Field(description="number of the part that is stored")


class DatasetCheck(BaseModel):
    """A check of a dataset."""

    check_id: str = Field(description="its id")
    dataset_id: str = Field(description="id of the dataset")
    status: Literal["running", "done", "failed"] = Field(
        description="`done`: the report is there, also if the dataset cannot be trained on; `failed`: the check itself "
        "crashed"
    )
    created_at: datetime = Field(description="when it began")
    report: CheckReport | None = Field(description="what a training would make of the dataset; null until it is done")
    error: CheckError | None = Field(description="why the check failed; null otherwise")
    rows_left_out: FileLink | None = Field(
        description="file of JSON lines that names every row that is not used, with the reason; null until it is there"
    )

    @classmethod
    def of(cls, state: CheckState) -> DatasetCheck:
        """Describe the state of a check."""
        link = state.rows_left_out
        return cls(
            check_id=state.record.check_id,
            dataset_id=state.record.dataset_id,
            status=state.status,
            created_at=state.record.created_at,
            report=state.report,
            error=state.error,
            rows_left_out=None if link is None else FileLink(url=link.url, path=link.path),
        )


class DatasetRows(BaseModel):
    """One page of a dataset's rows."""

    rows: Sequence[CheckedRow] = Field(description="rows in the order of their files; a page may have none")
    next_after: str | None = Field(description="`after` for the next page; null on the last one")


class DatasetDeleted(BaseModel):
    """Answer to the deletion of a dataset."""

    dataset_id: str = Field(description="id of the deleted dataset")
    deleted: Literal[True] = Field(True, description="always true")


class TrainingNeed(BaseModel):
    """Memory that a training with default settings needs."""

    method: str = Field(description="training method")
    machine: str | None = Field(description="the first machine of this service that has it; null: none has")
    main_gib: float = Field(description="main memory in GiB, without a GPU")
    gpu_gib: float = Field(description="GPU memory in GiB, on a machine with a GPU")

    @classmethod
    def of(cls, need: MethodNeed) -> TrainingNeed:
        """Return the need of a method."""
        return cls(
            method=need.method,
            machine=need.machine,
            main_gib=round(need.need.host_without_gpu, 1),
            gpu_gib=round(need.need.gpu, 1),
        )


class AvailableModel(BaseModel):
    """Base model whose files are there already."""

    base_model_id: str = Field(description="its value for a request")
    family: str | None = Field(description="generation of Gemma; null if it is none that is known")
    problem: str | None = Field(description="why it cannot be trained; null if it can")
    bytes: int = Field(description="size of its weights")
    parameters: int | None = Field(description="number of its parameters; null if its files do not tell")
    needs: Sequence[TrainingNeed] = Field(description="memory that each method needs; empty if its size is unknown")


class PublishedModel(BaseModel):
    """Size of published models."""

    name: str = Field(description="part of the names that models of this size have on the Hub")
    family: str = Field(description="generation of Gemma")
    reads_pictures: bool = Field(description="whether it can be trained on pictures")
    reads_audio: bool = Field(description="whether it can be trained on audio")
    parameters: int = Field(description="number of parameters")
    download_bytes: int = Field(description="size of the weights")
    needs: Sequence[TrainingNeed] = Field(description="memory that each method needs")


class Models(BaseModel):
    """Base models for a request."""

    memory_gib: float | None = Field(description="main memory of a workstation in GiB; null on Google Cloud")
    at_hand: Sequence[AvailableModel] = Field(description="base models whose files are there already")
    published: Sequence[PublishedModel] = Field(description="sizes of models on the Hub")

    @classmethod
    def of(cls, at_hand: Sequence[ModelAtHand], sizes: Sequence[KnownModel], memory_gib: float | None) -> Models:
        """Return lists of models as the API answers them."""
        return cls(
            memory_gib=None if memory_gib is None else round(memory_gib, 1),
            at_hand=[
                AvailableModel(
                    base_model_id=model.base_model_id,
                    family=model.family,
                    problem=model.problem,
                    bytes=model.bytes,
                    parameters=None if model.size is None else model.size.parameters,
                    needs=[TrainingNeed.of(need) for need in model.needs],
                )
                for model in at_hand
            ],
            published=[
                PublishedModel(
                    name=model.name,
                    family=model.family,
                    reads_pictures=model.reads_pictures,
                    reads_audio=model.reads_audio,
                    parameters=model.size.parameters,
                    download_bytes=model.size.file_bytes,
                    needs=[TrainingNeed.of(need) for need in model.needs],
                )
                for model in sizes
            ],
        )


class Health(BaseModel):
    """Answer of a service that is running."""

    status: Literal["healthy"] = Field("healthy", description="always `healthy`")
    service: Literal["training"] = Field("training", description="always `training`")
    version: str = Field(VERSION, description="version of the service")


class ProblemAnswer(BaseModel):
    """One thing that is wrong with a request."""

    loc: Sequence[str | int] = Field(
        description="where it is: field names and positions in lists, or `query` or `header` and a parameter"
    )
    msg: str = Field(description="what is wrong, in one sentence")
    code: str = Field(description="stable code of the problem, for programs")
    hint: str | None = Field(description="what to do about it")


class ErrorSentence(BaseModel):
    """Error of a call."""

    code: str = Field(description="stable code of the error, for programs")
    message: str = Field(description="what went wrong, in one sentence")
    hint: str | None = Field(description="what to do about it")


class ErrorAnswer(BaseModel):
    """Answer to a call that failed."""

    error: ErrorSentence = Field(description="what went wrong")
    problems: Sequence[ProblemAnswer] | None = Field(
        None, description="everything that is wrong with the request; only with status 422"
    )
