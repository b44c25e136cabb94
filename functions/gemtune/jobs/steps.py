"""Steps of a job: what an attempt may write, and how its end is counted. Pure: time comes in as an argument."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gemtune.errors import StaleAttempt
from gemtune.jobs.changes import Changed, ended, failed, moved, with_event, with_step
from gemtune.jobs.events import Event
from gemtune.jobs.launches import check_claim
from gemtune.jobs.record import NO_RESULT, Artifact, Claim, Failure, Job, Mark, Progress, StepRecord, StepResult
from gemtune.jobs.status import STATUS_OF, Status, Step

# Attempts in a row of one step without a newer whole checkpoint before the job fails.
FRUITLESS_ATTEMPTS = 3


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
    job = with_step(job, step, begun)
    if begun.attempt > 1:
        job, more = with_event(job, f"{step}_restarted", at, attempt=begun.attempt, cause=here.cause)
        events = (*events, *more)
    return job, events


def heartbeat(job: Job, mark: Mark, progress: Progress | None, at: datetime) -> Job:
    """The job with a fresh heartbeat (and progress) of its running attempt. Raises StaleClaim, StaleAttempt."""
    check_mark(job, mark)
    job = with_step(job, mark.step, job.steps[mark.step].model_copy(update={"heartbeat_at": at}))
    return job if progress is None else job.model_copy(update={"progress": progress})


def checkpointed(job: Job, mark: Mark, *, train_step: int, at: datetime) -> Changed:
    """Remember that a whole checkpoint of this train_step lies in the objects store."""
    check_mark(job, mark)
    update = {"checkpoint": max(train_step, job.steps[mark.step].checkpoint), "heartbeat_at": at}
    return with_step(job, mark.step, job.steps[mark.step].model_copy(update=update)), ()


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


def step_stopped(job: Job, mark: Mark, *, cause: str, at: datetime, ran: float | None = None) -> Changed:
    """The attempt ended at a checkpoint, or crashed and could still say so: the step may go on in another one. `ran`:
    its seconds, where it has measured them."""
    check_mark(job, mark)
    return with_step(job, mark.step, ended(job.steps[mark.step], "stopped", at, cause, ran)), ()


def step_done(
    job: Job, mark: Mark, result: StepResult = NO_RESULT, *, at: datetime, ran: float | None = None
) -> Changed:
    """Finish the step with what it delivers; the last step completes the job. `ran`: as in `step_stopped`. Raises
    StaleClaim, StaleAttempt."""
    check_mark(job, mark)
    job = with_step(job, mark.step, ended(job.steps[mark.step], "done", at, None, ran))
    job = job.model_copy(update=result.by_field())
    if mark.step is Step.EXPORT:
        return moved(job, Status.COMPLETED, at=at, adapter_path=job.adapter_path)
    told = {"warnings": [warning.model_dump() for warning in result.warnings]} if result.warnings else {}
    return with_event(job, f"{mark.step}_done", at, **told)


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
    over = here if here.state != "running" else ended(here, "stopped", at, cause or "crashed")
    job = with_step(job, step, over.model_copy(update=update))
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


def _ended_silently(step: StepRecord) -> StepRecord:
    """The step as it is when another attempt begins: one that is still `running` was killed, and counts up to its last
    heartbeat."""
    if step.state != "running" or step.heartbeat_at is None:
        return step
    return ended(step, "stopped", step.heartbeat_at, "crashed")
