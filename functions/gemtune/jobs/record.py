"""Record of a job, as the stores hold it.

Frozen: every change makes a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from gemtune.jobs.parts.base import Count, Record
from gemtune.jobs.parts.holds import Admission, Pause, PauseReason, Priority, Waiting
from gemtune.jobs.parts.metrics import Metrics, Progress
from gemtune.jobs.parts.plan import Plan, Workload
from gemtune.jobs.parts.results import Artifact, JobWarning, Parity, RowsSummary
from gemtune.jobs.sources import OpenSource
from gemtune.jobs.status import STEPS, OpenStatus, OpenStep, Step, is_final
from gemtune.object_name import is_safe

# Number of past attempts of a step that its record keeps. A week of one-hour executions makes 168, and a Firestore
# document holds 1 MiB.
ATTEMPTS_KEPT = 200


class Launch(Record):
    """The n-th workflow execution that was started for a job.

    No other launch starts before `lease_until`. If `execution` is known, none starts before it has ended either: it may
    be waiting for a machine, or for a response from control.
    unclaimed: how many launches in a row before this one ended without claiming the job.
    """

    number: int = 0
    lease_until: AwareDatetime | None = None
    execution: str | None = None
    unclaimed: int = 0


class Claim(Record):
    """Right of one workflow execution to run the job."""

    launch: int
    execution: str

    def is_same(self, other: Claim | None) -> bool:
        """Return whether both claims belong to the same execution.

        Ignores fields that a newer version of the service added.
        """
        return other is not None and (self.launch, self.execution) == (other.launch, other.execution)


class FencingToken(Record):
    """Token that a running attempt sends with each write.

    A write with the token of an older attempt is refused with StaleAttempt, so that an attempt which was replaced
    cannot overwrite what its successor recorded.
    """

    claim: Claim
    step: Step
    attempt: int
    began: float | None = None  # seconds of the monotonic clock of the attempt's process, when it began
    limit: PauseReason | None = None  # nearest limit when it began: its cap or its owner's budget; None: no limit


class Attempt(Record):
    """One past attempt of a step."""

    attempt: int = Field(description="number of the attempt, from 1")
    seconds: float = Field(description="seconds that it ran")
    cause: str | None = Field(None, description="why it ended unfinished; null if it finished the step")
    checkpoint: int = Field(0, description="train_step of the newest complete checkpoint when it ended; 0: none")
    execution: str | None = Field(
        None, description="what ran it, by the platform's name; null if an older version recorded it"
    )


StepState = Literal["pending", "running", "stopped", "done", "failed"]


class StepRecord(Record):
    """State of one step of a job, with its attempts."""

    state: StepState | str = "pending"  # a newer version may know further states
    attempt: int = 0  # number of the newest attempt; 0 before the first one
    execution: str | None = None  # what runs the newest attempt, by the platform's name
    started_at: AwareDatetime | None = None  # when the newest attempt began
    seconds: float = 0.0  # of all past attempts
    heartbeat_at: AwareDatetime | None = None
    cause: str | None = None  # why the newest attempt ended unfinished
    phase: str | None = None  # what the running attempt does, in words; None if it has not said
    checkpoint: int = 0  # train_step of the newest complete checkpoint
    # Stored under their first names, `judged` and `judged_checkpoint`: while versions run side by side, or after a
    # return to an older one, each has to read what the other wrote. With two names in one record, neither would know
    # which value is newer.
    last_assessed_report: str = Field("", alias="judged")  # "<attempt>/<round>"
    checkpoint_at_last_assessment: int = Field(0, alias="judged_checkpoint")
    fruitless: int = 0  # executions in a row that ended without a newer checkpoint
    interruptions: int = 0  # those of them that the platform ended, which are not counted in `fruitless`
    attempts: tuple[Attempt, ...] = ()  # past ones, at most the newest ATTEMPTS_KEPT


class Failure(Record):
    """Reason why a job failed."""

    code: str = Field(description="stable code of the error")
    message: str = Field(description="what went wrong, in one sentence")
    step: OpenStep | None = Field(None, description="step that failed; null if no step was at fault")
    hint: str | None = Field(None, description="what to do next")


class BaseWeights(Record):
    """Weights of another job, from which a training starts.

    folder: in the export bucket. prepared: folder of that job's prepared data, which names the base model.
    """

    folder: str
    prepared: str
    is_adapter: bool


def _pending_steps() -> Mapping[Step | str, StepRecord]:
    """Return the steps of a new job."""
    return {step: StepRecord() for step in STEPS}


class Job(Record):
    """Record of a job: what was requested, and everything that happened to it."""

    job_id: str
    # The job that trained, if this one only exports. The job whose weights this one starts from, if its request has a
    # base_job_id.
    parent_job_id: str | None = None
    lineage: tuple[str, ...] = ()  # jobs that this training goes on from: the nearest first, the root last
    base_weights: BaseWeights | None = None  # for a training with base_job_id
    base_model_folder: str | None = None  # folder of the export bucket with the base model, if another job trained it
    job_name: str
    status: OpenStatus
    modality: str
    base_model_id: str
    processed_dataset_id: str
    spec_uri: str
    spec_name: str
    export_machine: str | None = None  # training machine that exports; None: the usual one
    machine: str | None = None  # what trains it; None until `prepare` knows the model's size
    secret_names: Mapping[str, str] = {}  # role ("hf_token") -> name in the secret store
    source: OpenSource
    owner: str
    priority: Priority | str = "normal"
    pause_after: str | None = None  # step after which the job pauses; None once it has
    max_cost_usd: float | None = None
    max_hours: float | None = None
    idempotency_key: str | None = None
    request_hash: str
    relaunches: int = 0
    created_at: AwareDatetime
    updated_at: AwareDatetime
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    launch: Launch = Field(default_factory=Launch)
    claim: Claim | None = None
    admission: Admission | None = None  # of the step that runs, or that is about to
    waiting: Waiting | None = None
    pause: Pause | None = None
    workload: Workload | None = None  # None until prepare is done
    plan: Plan | None = None  # made when prepare is done
    secrets_renewed_at: AwareDatetime | None = None  # None: not since the job was created
    steps: Mapping[OpenStep, StepRecord] = Field(default_factory=_pending_steps)
    progress: Progress | None = None
    metrics: Metrics | None = None
    adapter_path: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    certificate: Parity | None = None
    wandb_url: str | None = None
    webhook_url: str | None = None
    error: Failure | None = None
    warnings: tuple[JobWarning, ...] = ()
    rows: RowsSummary | None = None
    version: Count = 1
    last_seq: Count = 0
    published_seq: Count = 0

    @field_validator("steps")
    @classmethod
    def _ordered(cls, steps: Mapping[Step | str, StepRecord]) -> Mapping[Step | str, StepRecord]:
        """Put the steps into their order, and add missing ones.

        Firestore's maps do not keep an order. Steps that only a newer version knows come last.
        """
        ours = {step: steps[step] if step in steps else StepRecord() for step in STEPS}
        return ours | {step: steps[step] for step in sorted(steps) if step not in ours}

    @field_validator("spec_name")
    @classmethod
    def _names_an_object(cls, name: str) -> str:
        """Refuse a name that no object can have.

        An empty one stands for one that was not readable.
        """
        if name and not is_safe(name):
            raise ValueError("it is not a valid object name")
        return name

    @property
    def key_hash(self) -> str | None:
        """Return the hash of the idempotency key; None without a key.

        Stores look up jobs by it.
        """
        return None if self.idempotency_key is None else key_hash(self.source, self.owner, self.idempotency_key)

    @property
    def is_over(self) -> bool:
        """Return whether the job's status is final."""
        return is_final(self.status, self.finished_at)

    @property
    def trained_by(self) -> str:
        """Return the id of the job that trained what this one exports.

        That is its parent if it only exports, else the job itself.
        """
        return self.parent_job_id if self.parent_job_id is not None and self.only_exports else self.job_id

    @property
    def only_exports(self) -> bool:
        """Return whether the job exports what its parent trained."""
        return self.parent_job_id is not None and self.base_weights is None

    @property
    def base_job_id(self) -> str | None:
        """Return the id of the job whose weights training starts from."""
        return None if self.base_weights is None else self.parent_job_id

    @property
    def needs_parent(self) -> bool:
        """Return whether the parent has to stay.

        An export needs it while it runs. A training from its weights does so until it failed or was cancelled before
        it had a result: that may be an adapter on the parent's model, and its history names the parent.
        """
        return not self.is_over or (self.base_weights is not None and self.has_trained)

    @property
    def has_trained(self) -> bool:
        """Return whether training finished.

        The job may have failed or been cancelled later.
        """
        return self.steps[Step.TRAIN].state == "done"

    @property
    def running_step(self) -> Step | None:
        """Return the step that runs now, or None."""
        return next((step for step in STEPS if self.steps[step].state == "running"), None)


def key_hash(source: str, owner: str, key: str) -> str:
    """Return the hash under which an idempotency key is stored.

    It covers source and owner, so that equal keys of different owners never collide.
    """
    return hashlib.sha256("\0".join((source, owner, key)).encode()).hexdigest()


class JobSummary(BaseModel):
    """One job in the list of `GET /jobs`."""

    model_config = ConfigDict(frozen=True)

    job_id: str = Field(description="id of the job")
    job_name: str = Field(description="name that the request gave it")
    status: OpenStatus = Field(description="current status; `unknown` if the record cannot be read")
    modality: str = Field(description="`text`, `vision` or `audio`")
    base_model_id: str = Field(description="base model, as the request named it")
    created_at: AwareDatetime = Field(description="when the job was accepted")
    waiting: Waiting | None = Field(None, description="the machine that the job waits for; null if it does not wait")
