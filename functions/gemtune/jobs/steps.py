"""Steps of a job: what an attempt may write, and how its end is counted. Pure: time comes in as an argument."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from gemtune.errors import StaleAttempt
from gemtune.jobs.changes import Changed, change_status, end_attempt, fail_job, with_event, with_step
from gemtune.jobs.events import Event
from gemtune.jobs.launches import check_claim
from gemtune.jobs.record import NO_RESULT, Artifact, Claim, Failure, FencingToken, Job, Progress, StepRecord, StepResult
from gemtune.jobs.status import STATUS_OF, Status, Step

# Attempts in a row of one step without a newer whole checkpoint before the job fails.
FRUITLESS_ATTEMPTS = 3


def check_fencing_token(job: Job, fence: FencingToken) -> None:
    """Raises StaleClaim or StaleAttempt when the writer is not the newest attempt of a live claim."""
    check_claim(job, fence.claim)
    here = job.steps[fence.step]
    if here.attempt != fence.attempt or here.state != "running":
        raise StaleAttempt(f"attempt {fence.attempt} of {fence.step} is not the running one of job {job.job_id!r}")


def begin_attempt(job: Job, step: Step, claim: Claim, *, execution: str, at: datetime) -> Changed:
    """Begin the next attempt of a step; moves the job when its status is not yet the step's. Raises StaleClaim."""
    check_claim(job, claim)
    here = _end_silent_attempt(job.steps[step])
    if here.state == "done":
        return job, ()
    events: Sequence[Event] = ()
    if job.status is not STATUS_OF[step]:
        job, events = change_status(job, STATUS_OF[step], at=at)
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


def record_heartbeat(job: Job, fence: FencingToken, progress: Progress | None, at: datetime) -> Job:
    """The job with a fresh heartbeat (and progress) of its running attempt. Raises StaleClaim, StaleAttempt."""
    check_fencing_token(job, fence)
    job = with_step(job, fence.step, job.steps[fence.step].model_copy(update={"heartbeat_at": at}))
    return job if progress is None else job.model_copy(update={"progress": progress})


def record_checkpoint(job: Job, fence: FencingToken, *, train_step: int, at: datetime) -> Changed:
    """Remember that a whole checkpoint of this train_step lies in the objects store."""
    check_fencing_token(job, fence)
    update = {"checkpoint": max(train_step, job.steps[fence.step].checkpoint), "heartbeat_at": at}
    return with_step(job, fence.step, job.steps[fence.step].model_copy(update=update)), ()


def record_wandb_url(job: Job, fence: FencingToken, *, wandb_url: str) -> Changed:
    """Remember where W&B shows the training. It may say so when the attempt has just ended. Raises StaleClaim,
    StaleAttempt."""
    check_claim(job, fence.claim)
    if job.steps[fence.step].attempt != fence.attempt:
        raise StaleAttempt(f"attempt {fence.attempt} of {fence.step} is not the newest one of job {job.job_id!r}")
    return (job if job.wandb_url == wandb_url else job.model_copy(update={"wandb_url": wandb_url})), ()


def record_artifacts(job: Job, fence: FencingToken, artifacts: Sequence[Artifact]) -> Changed:
    """Remember whole files of a step that has more to do. Raises StaleClaim, StaleAttempt."""
    check_fencing_token(job, fence)
    return job.model_copy(update={"artifacts": tuple(artifacts)}), ()


def stop_attempt(job: Job, fence: FencingToken, *, cause: str, at: datetime, ran: float | None = None) -> Changed:
    """The attempt ended at a checkpoint, or crashed and could still say so: the step may go on in another one. `ran`:
    its seconds, where it has measured them."""
    check_fencing_token(job, fence)
    return with_step(job, fence.step, end_attempt(job.steps[fence.step], "stopped", at, cause, ran)), ()


def finish_step(
    job: Job, fence: FencingToken, result: StepResult = NO_RESULT, *, at: datetime, ran: float | None = None
) -> Changed:
    """Finish the step with what it delivers; the last step completes the job. `ran`: as in `stop_attempt`. Raises
    StaleClaim, StaleAttempt."""
    check_fencing_token(job, fence)
    job = with_step(job, fence.step, end_attempt(job.steps[fence.step], "done", at, None, ran))
    job = job.model_copy(update=result.by_field())
    if fence.step is Step.EXPORT:
        return change_status(job, Status.COMPLETED, at=at, adapter_path=job.adapter_path)
    told = {"warnings": [warning.model_dump() for warning in result.warnings]} if result.warnings else {}
    return with_event(job, f"{fence.step}_done", at, **told)


def assess_execution(job: Job, step: Step, *, round: int, cause: str | None, at: datetime) -> Changed:
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
    over = here if here.state != "running" else end_attempt(here, "stopped", at, cause or "crashed")
    job = with_step(job, step, over.model_copy(update=update))
    if update["fruitless"] < FRUITLESS_ATTEMPTS:
        return job, ()
    seen = job.steps[step].cause or cause or "it ended without saying why"
    if here.attempt == 0:
        message = f"{step} ended {FRUITLESS_ATTEMPTS} times in a row before it began: {seen}"
        hint = "the request is not at fault: see the log of its last execution, mend the trainer's image, submit again"
        return fail_job(job, Failure(code="step_not_begun", message=message, step=step, hint=hint), at=at)
    failure = Failure(
        code="no_progress",
        message=f"{step} ended {FRUITLESS_ATTEMPTS} times in a row without a newer checkpoint: {seen}",
        step=step,
        hint="see the log of its last execution; if memory ran out, lower batch_size or max_seq_length",
    )
    return fail_job(job, failure, at=at)


def _end_silent_attempt(step: StepRecord) -> StepRecord:
    """The step as it is when another attempt begins: one that is still `running` was killed, and counts up to its last
    heartbeat."""
    if step.state != "running" or step.heartbeat_at is None:
        return step
    return end_attempt(step, "stopped", step.heartbeat_at, "crashed")
