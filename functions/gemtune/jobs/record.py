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
from gemtune.jobs.parts.plan import Plan, Workload
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


class Progress(Record):
    """Progress of the train step, as its attempt last reported it."""

    train_step: int = Field(0, description="train_steps (optimizer updates) done so far")
    total_steps: int = Field(0, description="train_steps of the whole training")
    epoch: float = Field(0.0, description="epochs done so far, with fraction")
    loss: float | None = Field(None, description="training loss of this train_step")
    reward: float | None = Field(None, description="GRPO: mean reward of this train_step's completions")
    margin: float | None = Field(
        None, description="DPO, KTO: margin between the implicit rewards of good and bad answers in this train_step"
    )
    learning_rate: float | None = Field(None, description="learning rate of this train_step")
    tokens_per_second: float | None = Field(None, description="tokens trained on per second")
    eta_seconds: float | None = Field(None, description="estimated seconds until training ends")


class EvaluationMetrics(Record):
    """Metrics of one evaluation on held-out rows.

    Those that do not apply are null.
    """

    eval_loss: float | None = Field(None, description="mean loss per trained token in nats; for DPO and KTO their loss")
    accuracy: float | None = Field(None, description="share of trained tokens that are the model's first choice")
    perplexity: float | None = Field(None, description="exp(eval_loss)")
    reward: float | None = Field(None, description="GRPO: mean reward of completions of the held-out prompts")
    rewards: Mapping[str, float] | None = Field(
        None, description="GRPO: mean of each reward by name, before it is multiplied by its weight"
    )
    margin: float | None = Field(
        None,
        description="DPO, KTO: how much more likely than under the base model the good answers became than the bad "
        "ones, in nats times beta; null if all rows have the same label",
    )
    preference_accuracy: float | None = Field(None, description="DPO: share of pairs with a positive margin")

    def by_name(self) -> dict[str, float]:
        """Return the metrics that are present.

        The parts of a reward are called `rewards/<name>`.
        """
        single = {name: getattr(self, name) for name in EvaluationMetrics.model_fields if name != "rewards"}
        parts = {f"rewards/{name}": value for name, value in (self.rewards or {}).items()}
        return {name: value for name, value in (single | parts).items() if value is not None}


class Metrics(EvaluationMetrics):
    """Metrics after training, and those of the base model before it."""

    train_step: int | None = Field(
        None, description="train_step whose weights were evaluated: the last one, or that of the best evaluation"
    )
    train_loss: float | None = Field(None, description="training loss that was logged last")
    baseline: EvaluationMetrics | None = Field(None, description="the same metrics of the base model before training")


class Parity(Record):
    """Certificate of an export: how it compares with the trained model.

    The export was loaded again in its own runtime for the comparison.
    """

    source: str = Field(description='where the compared rows come from, e.g. "held-out rows"')
    rows: int = Field(description="rows that were compared")
    media_rows: int = Field(0, description="rows among them with pictures or audio")
    positions: int = Field(description="compared positions, each of which predicts a token of an answer")
    prompts: int = Field(description="conversations whose tokens were compared")
    prompts_identical: int = Field(
        description="conversations that the export's runtime turns into the same tokens as training did"
    )
    mean_kl: float = Field(
        description="mean KL divergence of the export's predictions from the trained model's, in nats per position"
    )
    top1_agreement: float = Field(description="share of positions at which both models predict the same token first")
    perplexity: float = Field(description="perplexity of the export over these positions")
    perplexity_trained: float = Field(description="perplexity of the trained model over the same positions")
    change_kept: float | None = Field(
        None,
        description="share of the change in log-probabilities by training that the export shows, as a regression "
        "coefficient: 1 for all of it, 0 if the adapter is lost; null if all weights were trained",
    )
    verdict: Literal["passed", "loss_accepted"] | str = Field(
        "passed",
        description="`passed`, or `loss_accepted` if it loses more than its format may and the request had "
        "`accept_loss`",
    )
    losses: tuple[str, ...] = Field((), description="limits that it exceeds, in sentences; empty if it passed")
    noise_floor: float | None = Field(
        None,
        description="mean KL divergence that the same rounding causes in the base model on the same rows; null if it "
        "was not needed or not measured",
    )
    gain_kept: float | None = Field(
        None,
        description="share of what training gained in held-out loss that the export keeps; null if there was no gain "
        "to speak of, or no held-out rows",
    )
    learned_agreement: float | None = Field(
        None,
        description="share of the positions where training changed the first choice at which the export has the "
        "trained model's, or one almost as likely; null without such positions",
    )
    answers_right: int | None = Field(
        None, description="compared rows whose whole answer the export gives, token by token; null without such rows"
    )
    answers_right_trained: int | None = Field(None, description="the same of the trained model")
    kl_from_base: float | None = Field(
        None, description="mean KL divergence of the export from the base model; null if all weights were trained"
    )
    kl_from_base_trained: float | None = Field(None, description="the same of the trained model")
    probes: int = Field(0, description="fixed conversations that were compared, besides the rows")
    probe_kl: float | None = Field(None, description="mean KL divergence on these conversations")
    reference: str = Field("", description="when the trained model's predictions were recorded")
    differences: tuple[str, ...] = Field(
        (), description="ways in which the files knowingly differ from the training, in sentences"
    )
    seconds: float | None = Field(None, description="seconds that the comparison took")
    memory_bytes: int | None = Field(None, description="main memory that the comparison took at its peak")


class Artifact(Record):
    """Immutable file of a job's result."""

    name: str = Field(description="path of the file inside the result")
    uri: str = Field(description="where the file is stored")
    bytes: int = Field(description="size of the file")
    sha256: str = Field(description="SHA-256 of the file's content, in hexadecimal")


# Code of the warning about a cap that even the least of a plan exceeds.
CAP_BELOW_PLAN = "cap_below_plan"


class JobWarning(Record):
    """Something that a step did differently from what its user may expect."""

    code: str = Field(description="stable code of the warning")
    message: str = Field(description="what happened, in one sentence")
    hint: str | None = Field(None, description="what to do about it")


class UnreadField(Record):
    """A field of rows that cannot change what is learned, and is not read."""

    name: str = Field(description="name of the field, with the fields around it")
    rows: int = Field(description="rows that have it")


class RowsSummary(Record):
    """Counts of a dataset's rows by what became of them, and its files.

    `report.json` has the same in full.
    """

    train: int = Field(0, description="rows that are trained on in every epoch")
    held_out: int = Field(0, description="rows that are evaluated and never trained on")
    tokens: int = Field(0, description="tokens of the rows that are trained on, per epoch")
    trained_tokens: int = Field(
        0, description="tokens with a loss among them; 0 for GRPO, which trains on completions of the model"
    )
    refused: int = Field(0, description="rows that were left out because they cannot be used")
    dropped: int = Field(0, description="rows that were left out because they have more tokens than max_seq_length")
    cut: int = Field(0, description="rows that were cut at max_seq_length")
    duplicates: int = Field(0, description="rows of the train split that repeat an earlier one")
    held_out_duplicates: int = Field(0, description="held-out rows that are trained on, too")
    fields_not_read: tuple[UnreadField, ...] = Field(
        (), description="fields that cannot change what is learned and were not read, at most 100"
    )
    files: tuple[str, ...] = Field((), description="files that were read, at most 100")
    files_not_read: tuple[str, ...] = Field((), description="other files of the dataset, at most 100")
    dataset_revision: str | None = Field(None, description="commit of a dataset of the Hub; null for other datasets")
    report: str | None = Field(None, description="URI of report.json; rows_left_out.jsonl beside it names every row")


class StepResult(BaseModel):
    """Fields of a job's record that a finished step delivers.

    Fields that are None stay as they were.
    prepare: machine, export_machine, workload, plan, warnings, rows. train: metrics, artifacts. export: adapter_path,
    artifacts, certificate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str | None = None
    export_machine: str | None = None
    workload: Workload | None = None
    plan: Plan | None = None
    warnings: tuple[JobWarning, ...] | None = None
    rows: RowsSummary | None = None
    metrics: Metrics | None = None
    adapter_path: str | None = None
    artifacts: tuple[Artifact, ...] | None = None
    certificate: Parity | None = None

    def by_field(self) -> dict[str, object]:
        """Return the delivered values by the names of the job's fields."""
        delivered = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in delivered.items() if value is not None}


NO_RESULT = StepResult()


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
    # For an export of its own: the job that trained. For a training with base_job_id: the job whose weights it starts
    # from.
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
