"""State of a job, and what it has taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import BaseModel, Field

from gemtune.jobs.parts.holds import Pause, Waiting
from gemtune.jobs.parts.metrics import Metrics, Progress
from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.parts.results import Artifact, JobWarning, Parity, RowsSummary
from gemtune.jobs.record import Attempt, Failure, Job, StepRecord
from gemtune.jobs.sources import OpenSource
from gemtune.jobs.status import OpenStatus, OpenStep, Status
from gemtune.machines import cost
from gemtune.machines.cost import Prices
from gemtune.services.budgets.ledger import OwnerBudgets


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
