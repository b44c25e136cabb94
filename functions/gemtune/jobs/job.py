"""The job: its record, its statuses, and every change it can go through. Pure: time comes in as an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from gemtune.errors import IllegalMove, JobIsOver, JobIsRunning, NothingTrained, StaleAttempt, StaleClaim
from gemtune.jobs.events import Event


class Status(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    TRAINING = "training"
    EXPORTING = "exporting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # only shown in a list, for a record that cannot be read


# The one table of moves. A status that is not a key here is final.
MOVES: Mapping[Status, frozenset[Status]] = {
    # To exporting goes what exports again: a job whose train step came with it, done.
    Status.QUEUED: frozenset({Status.PREPARING, Status.EXPORTING, Status.FAILED, Status.CANCELLED}),
    Status.PREPARING: frozenset({Status.TRAINING, Status.FAILED, Status.CANCELLED}),
    Status.TRAINING: frozenset({Status.EXPORTING, Status.FAILED, Status.CANCELLED}),
    Status.EXPORTING: frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
}
UNFINISHED = frozenset(MOVES)


class Step(StrEnum):
    PREPARE = "prepare"
    TRAIN = "train"
    EXPORT = "export"


STATUS_OF: Mapping[Step, Status] = {
    Step.PREPARE: Status.PREPARING,
    Step.TRAIN: Status.TRAINING,
    Step.EXPORT: Status.EXPORTING,
}
STEPS: tuple[Step, ...] = tuple(Step)

# Attempts in a row of one step without a newer whole checkpoint before the job fails.
FRUITLESS_ATTEMPTS = 3
# Attempts of a step that its record tells of: a week of executions of an hour each is 168, and a document has 1 MiB.
ATTEMPTS_KEPT = 200
# Launches after the first one that `sweep` may start for a job.
RELAUNCHES = 3
# Launches in a row whose executions end without having claimed the job, before it fails.
UNCLAIMED_LAUNCHES = 6


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


class Mark(Record):
    """What a running step signs its writes with; an older attempt gets StaleAttempt."""

    claim: Claim
    step: Step
    attempt: int


class Attempt(Record):
    """How an attempt of a step ended. cause: None when it finished the step. checkpoint: the newest one by then."""

    attempt: int
    seconds: float
    cause: str | None = None
    checkpoint: int = 0


class StepRecord(Record):
    state: Literal["pending", "running", "stopped", "done", "failed"] = "pending"
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


class Figures(Record):
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
        single = {name: getattr(self, name) for name in Figures.model_fields if name != "rewards"}
        parts = {f"rewards/{name}": value for name, value in (self.rewards or {}).items()}
        return {name: value for name, value in (single | parts).items() if value is not None}


class Metrics(Figures):
    """The figures after training, and beside them those of the untrained base model. train_step: whose weights these
    are, the last one's or the best evaluation's."""

    train_step: int | None = None
    train_loss: float | None = None
    baseline: Figures | None = None


class Parity(Record):
    """How an export, loaded again in its own runtime, compares with the trained model.

    prompts_identical: conversations that become the tokens that were trained with. mean_kl (nats) and top1_agreement:
    over positions that predict a token of an answer; perplexity of the export, and of the trained model, over the same.
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


class Artifact(Record):
    """An immutable file."""

    name: str
    uri: str
    bytes: int
    sha256: str


class Failure(Record):
    code: str
    message: str
    step: Step | None = None
    hint: str | None = None


class Job(Record):
    """The user's request and all that became of it."""

    job_id: str
    parent_job_id: str | None = None  # the job that trained what this one exports again
    job_name: str
    status: Status
    modality: str
    base_model_id: str
    processed_dataset_id: str
    spec_uri: str
    spec_name: str
    export_machine: str | None = None  # whose memory its export needs, when that of exports is not enough
    machine: str | None = None  # what trains it; None until `prepare` has seen the weights of a model we do not know
    secret_names: Mapping[str, str] = {}  # role ("hf_token") -> name in the secret store
    source: Literal["http", "pubsub", "upload"]
    owner: str
    idempotency_key: str | None = None
    request_hash: str
    relaunches: int = 0
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    launch: Launch = Launch()
    claim: Claim | None = None
    steps: Mapping[Step, StepRecord] = {step: StepRecord() for step in STEPS}
    progress: Progress | None = None
    metrics: Metrics | None = None
    adapter_path: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    certificate: Parity | None = None
    wandb_url: str | None = None
    webhook_url: str | None = None
    error: Failure | None = None
    version: int = 1
    last_seq: int = 0
    published_seq: int = 0

    @field_validator("steps")
    @classmethod
    def _in_their_order(cls, steps: Mapping[Step, StepRecord]) -> Mapping[Step, StepRecord]:
        """Firestore's maps forget the order they were written in."""
        return {step: steps[step] for step in STEPS if step in steps}

    @property
    def key_hash(self) -> str | None:
        """What the idempotency key is stored under: keys of different sources and owners never meet."""
        return None if self.idempotency_key is None else key_hash(self.source, self.owner, self.idempotency_key)

    @property
    def is_over(self) -> bool:
        return self.status not in MOVES

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


class JobSummary(Record):
    """A row of `GET /jobs`."""

    job_id: str
    job_name: str
    status: Status
    modality: str
    base_model_id: str
    created_at: datetime


Changed = tuple[Job, Sequence[Event]]


def accepted(job: Job) -> Changed:
    """A new job with its first event."""
    origin = {} if job.parent_job_id is None else {"parent_job_id": job.parent_job_id}
    return _with_event(job, "job_queued", job.created_at, **origin)


def steps_of_export(parent: Job) -> Mapping[Step, StepRecord]:
    """The steps of a job that exports again what `parent` trained: all but the export are done. Their attempts say
    where in the parent's folder their results lie. Raises JobIsRunning, NothingTrained."""
    if not parent.is_over:
        raise JobIsRunning(parent.job_id, parent.status)
    if not parent.has_trained:
        raise NothingTrained(parent.job_id)
    brought = {
        step: StepRecord(state="done", attempt=parent.steps[step].attempt) for step in (Step.PREPARE, Step.TRAIN)
    }
    return {**brought, Step.EXPORT: StepRecord()}


def moved(job: Job, to: Status, *, at: datetime, **details: Any) -> Changed:
    """The job after one move, and the event that tells of it. Raises IllegalMove."""
    untrained = (job.status, to) == (Status.QUEUED, Status.EXPORTING) and not job.has_trained
    if untrained or to not in MOVES.get(job.status, frozenset()):
        raise IllegalMove(job.job_id, job.status, to)
    over = to not in MOVES
    job = job.model_copy(
        update={
            "status": to,
            "started_at": job.started_at or (None if over else at),
            "finished_at": at if over else None,
        }
    )
    return _with_event(job, f"job_{to}", at, **details)


def launched(job: Job, *, at: datetime, lease: timedelta) -> Changed:
    """Take the next launch number, unless a launch is under way, has the job claimed, or the job is over. The lease is
    twice as long after each launch that nobody claimed: what was broken may be mended by then."""
    here = job.launch
    leased = here.lease_until is not None and at < here.lease_until
    if job.is_over or leased or here.execution is not None or job.claim is not None:
        return job, ()
    lease_until = at + lease * 2**here.unclaimed
    launch = Launch(number=here.number + 1, lease_until=lease_until, unclaimed=here.unclaimed)
    return job.model_copy(update={"launch": launch}), ()


def launch_started(job: Job, launch: int, execution: str) -> Changed:
    """Remember the execution of a launch."""
    if job.is_over or job.launch.number != launch:
        return job, ()
    return job.model_copy(update={"launch": job.launch.model_copy(update={"execution": execution})}), ()


def launch_returned(job: Job, launch: int) -> Changed:
    """Give up a launch whose execution could not be started."""
    if job.launch.number != launch or job.claim is not None:
        return job, ()
    return job.model_copy(update={"launch": Launch(number=launch, unclaimed=job.launch.unclaimed)}), ()


def launch_unclaimed(job: Job, launch: int, *, cause: str, at: datetime) -> Changed:
    """Give up a launch whose execution ended without a claim; fail the job when too many in a row did."""
    if job.is_over or job.launch.number != launch or job.claim is not None:
        return job, ()
    unclaimed = job.launch.unclaimed + 1
    job = job.model_copy(update={"launch": Launch(number=launch, unclaimed=unclaimed)})
    if unclaimed < UNCLAIMED_LAUNCHES:
        return job, ()
    message = f"{unclaimed} executions of the workflow ended before they took the job up, the last one as {cause}"
    hint = "the request is not at fault: see the logs of the workflow and of control, mend the service, submit again"
    return failed(job, Failure(code="never_taken_up", message=message, hint=hint), at=at)


def relaunched(job: Job, *, at: datetime, lease_until: datetime, cause: str) -> Changed:
    """Take the job from the execution that has it, for a new launch; its steps resume."""
    launch = Launch(number=job.launch.number + 1, lease_until=lease_until)
    job = job.model_copy(update={"claim": None, "launch": launch, "relaunches": job.relaunches + 1})
    return _with_event(job, "job_relaunched", at, launch=job.launch.number, cause=cause)


def claimed(job: Job, claim: Claim) -> Changed:
    """Let one execution of the current launch in. The same execution may come again. Raises StaleClaim."""
    if job.is_over or claim.launch != job.launch.number or job.claim not in (None, claim):
        raise StaleClaim(f"launch {claim.launch} of job {job.job_id!r} is not the one that may run it")
    if job.claim == claim:
        return job, ()
    return job.model_copy(update={"claim": claim}), ()


def check_claim(job: Job, claim: Claim) -> None:
    """Raises StaleClaim when the job is over or another execution has it."""
    if job.is_over:
        raise StaleClaim(f"job {job.job_id!r} is {job.status}")
    if job.claim != claim:
        raise StaleClaim(f"job {job.job_id!r} belongs to another execution")


def check_mark(job: Job, mark: Mark) -> None:
    """Raises StaleClaim or StaleAttempt when the writer is not the newest attempt of a live claim."""
    check_claim(job, mark.claim)
    here = job.steps[mark.step]
    if here.attempt != mark.attempt or here.state != "running":
        raise StaleAttempt(f"attempt {mark.attempt} of {mark.step} is not the running one of job {job.job_id!r}")


def step_begun(job: Job, step: Step, claim: Claim, *, execution: str, at: datetime) -> Changed:
    """Begin the next attempt of a step; moves the job when its status is not yet the step's. Raises StaleClaim."""
    check_claim(job, claim)
    here = _ended_silently(job.steps[step])
    if here.state == "done":
        return job, ()
    events: Sequence[Event] = ()
    if job.status is not STATUS_OF[step]:
        job, events = moved(job, STATUS_OF[step], at=at)
    begun = here.model_copy(
        update={
            "state": "running",
            "attempt": here.attempt + 1,
            "execution": execution,
            "started_at": at,
            "heartbeat_at": at,
            "cause": None,
        }
    )
    job = _with_step(job, step, begun)
    if begun.attempt > 1:
        job, more = _with_event(job, f"{step}_restarted", at, attempt=begun.attempt, cause=here.cause)
        events = (*events, *more)
    return job, events


def heartbeat(job: Job, mark: Mark, progress: Progress | None, at: datetime) -> Job:
    """The job with a fresh heartbeat (and progress) of its running attempt. Raises StaleClaim, StaleAttempt."""
    check_mark(job, mark)
    job = _with_step(job, mark.step, job.steps[mark.step].model_copy(update={"heartbeat_at": at}))
    return job if progress is None else job.model_copy(update={"progress": progress})


def checkpointed(job: Job, mark: Mark, *, train_step: int, at: datetime) -> Changed:
    """Remember that a whole checkpoint of this train_step lies in the objects store."""
    check_mark(job, mark)
    update = {"checkpoint": max(train_step, job.steps[mark.step].checkpoint), "heartbeat_at": at}
    return _with_step(job, mark.step, job.steps[mark.step].model_copy(update=update)), ()


def tracked(job: Job, mark: Mark, *, wandb_url: str) -> Changed:
    """Remember where W&B shows the training. It may say so when the attempt has just ended. Raises StaleClaim,
    StaleAttempt."""
    check_claim(job, mark.claim)
    if job.steps[mark.step].attempt != mark.attempt:
        raise StaleAttempt(f"attempt {mark.attempt} of {mark.step} is not the newest one of job {job.job_id!r}")
    return (job if job.wandb_url == wandb_url else job.model_copy(update={"wandb_url": wandb_url})), ()


def recorded(job: Job, mark: Mark, artifacts: Sequence[Artifact]) -> Changed:
    """Remember whole files of a step that has more to do. Raises StaleClaim, StaleAttempt."""
    check_mark(job, mark)
    return job.model_copy(update={"artifacts": tuple(artifacts)}), ()


def step_stopped(job: Job, mark: Mark, *, cause: str, at: datetime) -> Changed:
    """The attempt ended at a checkpoint, or crashed and could still say so: the step may go on in another one."""
    check_mark(job, mark)
    return _with_step(job, mark.step, _ended(job.steps[mark.step], "stopped", at, cause)), ()


def step_done(job: Job, mark: Mark, *, at: datetime, **results: Any) -> Changed:
    """The step's work is whole. The last step completes the job. `results` are fields of the record."""
    check_mark(job, mark)
    job = _with_step(job, mark.step, _ended(job.steps[mark.step], "done", at, None)).model_copy(update=results)
    if mark.step is Step.EXPORT:
        return moved(job, Status.COMPLETED, at=at, adapter_path=job.adapter_path)
    return _with_event(job, f"{mark.step}_done", at)


def failed(job: Job, failure: Failure, *, at: datetime) -> Changed:
    """The job will not be tried again. Raises IllegalMove when it is over."""
    for step in STEPS:
        if job.steps[step].state == "running":
            job = _with_step(job, step, _ended(job.steps[step], "failed", at, failure.code))
    job = job.model_copy(update={"error": failure})
    return moved(job, Status.FAILED, at=at, code=failure.code, message=failure.message)


def cancelled(job: Job, *, at: datetime) -> Changed:
    """Raises JobIsOver."""
    if job.is_over:
        raise JobIsOver(job.job_id, job.status)
    for step in STEPS:
        if job.steps[step].state == "running":
            job = _with_step(job, step, _ended(job.steps[step], "stopped", at, "cancelled"))
    return moved(job, Status.CANCELLED, at=at)


def judged(job: Job, step: Step, *, round: int, cause: str | None, at: datetime) -> Changed:
    """An execution of a step ended without finishing it: count it, and fail the job at the third in a row that left
    no newer whole checkpoint. `round` counts the workflow's tries, so that a report that comes twice counts once."""
    here = job.steps[step]
    report = f"{here.attempt}/{round}"
    if here.judged == report:
        return job, ()
    update: dict[str, Any] = {
        "fruitless": 0 if here.checkpoint > here.judged_checkpoint else here.fruitless + 1,
        "judged": report,
        "judged_checkpoint": here.checkpoint,
    }
    ended = here if here.state != "running" else _ended(here, "stopped", at, cause or "crashed")
    job = _with_step(job, step, ended.model_copy(update=update))
    if update["fruitless"] < FRUITLESS_ATTEMPTS:
        return job, ()
    seen = job.steps[step].cause or cause or "it ended without saying why"
    if here.attempt == 0:
        message = f"{step} ended {FRUITLESS_ATTEMPTS} times in a row before it began: {seen}"
        hint = "the request is not at fault: see the log of its last execution, mend the trainer's image, submit again"
        return failed(job, Failure(code="step_not_begun", message=message, step=step, hint=hint), at=at)
    failure = Failure(
        code="no_progress",
        message=f"{step} ended {FRUITLESS_ATTEMPTS} times in a row without a newer checkpoint: {seen}",
        step=step,
        hint="see the log of its last execution; if memory ran out, lower batch_size or max_seq_length",
    )
    return failed(job, failure, at=at)


def _ended(step: StepRecord, state: str, at: datetime, cause: str | None) -> StepRecord:
    ran = (at - step.started_at).total_seconds() if step.started_at else 0.0
    over = Attempt(attempt=step.attempt, seconds=round(ran, 3), cause=cause, checkpoint=step.checkpoint)
    return step.model_copy(
        update={
            "state": state,
            "heartbeat_at": at,
            "seconds": round(step.seconds + ran, 3),
            "cause": cause,
            "attempts": (*step.attempts, over)[-ATTEMPTS_KEPT:],
        }
    )


def _ended_silently(step: StepRecord) -> StepRecord:
    """The step as it is when another attempt begins: one that is still `running` was killed, and counts up to its last
    heartbeat."""
    if step.state != "running" or step.heartbeat_at is None:
        return step
    return _ended(step, "stopped", step.heartbeat_at, "crashed")


def _with_step(job: Job, step: Step, record: StepRecord) -> Job:
    return job.model_copy(update={"steps": {**job.steps, step: record}})


def _with_event(job: Job, type: str, at: datetime, **details: Any) -> Changed:
    event = Event(job_id=job.job_id, seq=job.last_seq + 1, type=type, status=job.status, at=at, details=details)
    return job.model_copy(update={"last_seq": event.seq}), (event,)
