"""The record of a job. Frozen: a change makes a new one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gemtune.jobs.sources import OpenSource
from gemtune.jobs.status import STEPS, OpenStatus, OpenStep, Step, is_final

# Attempts of a step that its record tells of: a week of executions of an hour each is 168, and a document has 1 MiB.
ATTEMPTS_KEPT = 200


class Record(BaseModel):
    """Frozen. Fields that a newer version added are kept, and written again with the others."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Launch(Record):
    """The n-th workflow execution started for a job. Nobody starts another until `lease_until`, nor, once it is known
    by its name, before it has ended: it may wait for its turn, or for control to answer. unclaimed: how many before it,
    in a row, ended without a claim."""

    number: int = 0
    lease_until: datetime | None = None
    execution: str | None = None
    unclaimed: int = 0


class Claim(Record):
    """The right to move the job."""

    launch: int
    execution: str

    def is_same(self, other: Claim | None) -> bool:
        """Whether both are the right of the same execution, whatever a newer version wrote beside it."""
        return other is not None and (self.launch, self.execution) == (other.launch, other.execution)


class FencingToken(Record):
    """What a running step signs its writes with; an older attempt gets StaleAttempt."""

    claim: Claim
    step: Step
    attempt: int
    began: float | None = None  # the monotonic clock of the attempt's process at its begin, in seconds


class Attempt(Record):
    """How an attempt of a step ended. cause: None when it finished the step. checkpoint: the newest one by then."""

    attempt: int
    seconds: float
    cause: str | None = None
    checkpoint: int = 0


StepState = Literal["pending", "running", "stopped", "done", "failed"]


class StepRecord(Record):
    state: StepState | str = "pending"  # a newer version may know more of them
    attempt: int = 0
    execution: str | None = None
    started_at: datetime | None = None
    seconds: float = 0.0
    heartbeat_at: datetime | None = None
    cause: str | None = None
    checkpoint: int = 0  # train_step of the newest whole checkpoint
    judged: str = ""  # the report of its end that was judged last: "<attempt>/<round>"
    judged_checkpoint: int = 0  # the newest checkpoint at that time
    fruitless: int = 0  # attempts in a row that ended without a newer one
    attempts: tuple[Attempt, ...] = ()  # those that are over, the newest ATTEMPTS_KEPT


class Progress(Record):
    train_step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    reward: float | None = None  # GRPO: the mean of the completions of this train_step
    margin: float | None = None  # DPO: by how much the chosen answers are preferred
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


class EvaluationMetrics(Record):
    """What an evaluation found. `perplexity` is exp(eval_loss), the mean token loss in nats. Of GRPO: the mean reward
    of completions of held-out prompts, and unweighted the parts it is the sum of. Of DPO: by how much more likely than
    under the base model the chosen answers became than the rejected ones (times beta), and for how many of them."""

    eval_loss: float | None = None
    accuracy: float | None = None
    perplexity: float | None = None
    reward: float | None = None
    rewards: Mapping[str, float] | None = None
    margin: float | None = None
    preference_accuracy: float | None = None

    def by_name(self) -> dict[str, float]:
        """Those that there are, the parts of a reward as `rewards/<name>`."""
        single = {name: getattr(self, name) for name in EvaluationMetrics.model_fields if name != "rewards"}
        parts = {f"rewards/{name}": value for name, value in (self.rewards or {}).items()}
        return {name: value for name, value in (single | parts).items() if value is not None}


class Metrics(EvaluationMetrics):
    """The figures after training, and beside them those of the untrained base model. train_step: whose weights these
    are, the last one's or the best evaluation's."""

    train_step: int | None = None
    train_loss: float | None = None
    baseline: EvaluationMetrics | None = None


class Parity(Record):
    """How an export, loaded again in its own runtime, compares with the trained model.

    prompts_identical: conversations that become the tokens that were trained with. mean_kl (nats) and top1_agreement:
    over positions that predict a token of an answer; perplexity of the export, and of the trained model, over the same.
    change_kept: how much of what training changed in the log-probabilities the export shows, as the coefficient of a
    regression on it: 1 where all of it is there, 0 where the adapter is lost; None where all weights were trained.
    """

    source: str  # where the rows come from: "held-out rows"
    rows: int
    positions: int
    prompts: int
    prompts_identical: int
    mean_kl: float
    top1_agreement: float
    perplexity: float
    perplexity_trained: float
    change_kept: float | None = None


class Artifact(Record):
    """An immutable file."""

    name: str
    uri: str
    bytes: int
    sha256: str


class JobWarning(Record):
    """What a step did otherwise than its user may expect, without failing."""

    code: str
    message: str
    hint: str | None = None


class StepResult(BaseModel):
    """Fields of a job's record that a finished step delivers; what it leaves out stays as it was.

    prepare: machine, export_machine, warnings. train: metrics, artifacts. export: adapter_path, artifacts, certificate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str | None = None
    export_machine: str | None = None
    warnings: tuple[JobWarning, ...] | None = None
    metrics: Metrics | None = None
    adapter_path: str | None = None
    artifacts: tuple[Artifact, ...] | None = None
    certificate: Parity | None = None

    def by_field(self) -> dict[str, object]:
        """What was delivered, by the job's own field names."""
        delivered = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in delivered.items() if value is not None}


NO_RESULT = StepResult()


class Failure(Record):
    code: str
    message: str
    step: OpenStep | None = None
    hint: str | None = None


def _pending() -> Mapping[Step | str, StepRecord]:
    return {step: StepRecord() for step in STEPS}


class Job(Record):
    """The user's request and all that became of it."""

    job_id: str
    parent_job_id: str | None = None  # the job that trained what this one exports again
    job_name: str
    status: OpenStatus
    modality: str
    base_model_id: str
    processed_dataset_id: str
    spec_uri: str
    spec_name: str
    export_machine: str | None = None  # whose memory its export needs, when that of exports is not enough
    machine: str | None = None  # what trains it; None until `prepare` has seen the weights of a model we do not know
    secret_names: Mapping[str, str] = {}  # role ("hf_token") -> name in the secret store
    source: OpenSource
    owner: str
    idempotency_key: str | None = None
    request_hash: str
    relaunches: int = 0
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    launch: Launch = Field(default_factory=Launch)
    claim: Claim | None = None
    steps: Mapping[OpenStep, StepRecord] = Field(default_factory=_pending)
    progress: Progress | None = None
    metrics: Metrics | None = None
    adapter_path: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    certificate: Parity | None = None
    wandb_url: str | None = None
    webhook_url: str | None = None
    error: Failure | None = None
    warnings: tuple[JobWarning, ...] = ()
    version: int = 1
    last_seq: int = 0
    published_seq: int = 0

    @field_validator("steps")
    @classmethod
    def _in_their_order(cls, steps: Mapping[Step | str, StepRecord]) -> Mapping[Step | str, StepRecord]:
        """Each step, in its order, which Firestore's maps forget; those of a newer version come after them."""
        ours = {step: steps[step] if step in steps else StepRecord() for step in STEPS}
        return ours | {step: steps[step] for step in sorted(steps) if step not in ours}

    @property
    def key_hash(self) -> str | None:
        """What the idempotency key is stored under: keys of different sources and owners never meet."""
        return None if self.idempotency_key is None else key_hash(self.source, self.owner, self.idempotency_key)

    @property
    def is_over(self) -> bool:
        return is_final(self.status, self.finished_at)

    @property
    def trained_by(self) -> str:
        """The job that prepared and trained what this one exports: itself, as a rule."""
        return self.parent_job_id or self.job_id

    @property
    def has_trained(self) -> bool:
        """Whether an adapter or a model is recorded, whatever became of the job after."""
        return self.steps[Step.TRAIN].state == "done"

    @property
    def running_step(self) -> Step | None:
        return next((step for step in STEPS if self.steps[step].state == "running"), None)


def key_hash(source: str, owner: str, key: str) -> str:
    """SHA-256 over source, owner and key."""
    return hashlib.sha256("\0".join((source, owner, key)).encode()).hexdigest()


class JobSummary(BaseModel):
    """A row of `GET /jobs`."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    job_id: str
    job_name: str
    status: OpenStatus
    modality: str
    base_model_id: str
    created_at: datetime
