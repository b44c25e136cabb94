"""Plan of a job: what it will take, before it is spent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gemtune.jobs.parts.base import Record


class Span(Record):
    """Estimate of a quantity, with bounds."""

    least: float = Field(description="lower bound")
    expected: float = Field(description="best estimate")
    most: float = Field(description="upper bound")


class Workload(Record):
    """Amount of work of a training, which prepare counts."""

    train_steps: int = Field(description="train_steps of the whole training")
    tokens: int = Field(description="tokens of the rows in all epochs; for GRPO with completions of full length")
    longest_row: int = Field(description="tokens of the longest row")
    rows_tokens: int | None = Field(
        None,
        description="tokens of all rows, once, which prepare reads; null in jobs of versions that did not count them",
    )


class MemoryPlan(Record):
    """Memory that the training needs, beside what its machine has, in GiB."""

    gpu_needed: float | None = Field(description="GPU memory that is needed; null without a GPU")
    gpu_available: float | None = Field(description="GPU memory of the machine; null without a GPU")
    main_needed: float = Field(description="main memory that is needed; on Cloud Run with the local files")
    main_available: float | None = Field(description="main memory of the machine; null if it is not known")


class Alternative(Record):
    """Change of the request, and what it would take then."""

    change: str = Field(description="fields of the request with their values, such as `machine l4`")
    fits: bool = Field(description="whether the memory suffices")
    minutes: float | None = Field(description="expected minutes of the job; null if unknown")
    usd: float | None = Field(description="expected cost in USD; null if a price is not known")


class StepEstimate(Record):
    """Estimate of one step.

    key: the entry of the table of measured jobs that the step belongs to.
    """

    key: str = Field(description="kind of step in the table of finished jobs")
    seconds: float = Field(description="expected seconds, with the restarts that a time limit makes necessary")
    basis: Literal["measured", "estimated"] | str = Field(
        description="`measured` by finished jobs of this deployment, or `estimated` from the hardware's peak speed"
    )
    jobs: int = Field(description="number of finished jobs behind it")


class Plan(Record):
    """Resources and time that a job will take."""

    machine: str | None = Field(description="machine that trains; null while the model's size is unknown")
    machine_reason: str = Field(description="why that machine")
    memory: MemoryPlan | None = Field(description="memory that is needed; null while the model's size is unknown")
    exact: bool = Field(description="whether tokens and train_steps are counted, which prepare does")
    train_steps: Span | None = Field(description="train_steps of the training; null if they cannot be estimated")
    tokens: Span | None = Field(description="tokens of all epochs; null if they cannot be estimated")
    minutes: Span | None = Field(description="minutes of all steps, without waiting; null if unknown")
    usd: Span | None = Field(
        description="cost by the machines' prices, those of the list or those that the service states; 0 on a "
        "workstation whose price is not stated; null if a price is not known"
    )
    prices: str = Field(
        description="date and region of the list prices, the machines whose price is stated instead, and those of the "
        "job whose price is not known"
    )
    steps: dict[str, StepEstimate] = Field({}, description="estimate of each step")
    alternatives: tuple[Alternative, ...] = Field((), description="changes that would fit, or that cost less")
