"""Steps of a job: what an attempt may write, and how its end counts.

All functions are pure: they return a changed copy, and the time is an argument. Functions with a fencing token raise
StaleClaim or StaleAttempt when a newer execution or attempt has taken over.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from gemtune.errors import StaleAttempt
from gemtune.jobs.changes import Changed, change_status, end_attempt, fail_job, with_event, with_step
from gemtune.jobs.launches import check_claim
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.parts.results import NO_RESULT, Artifact, StepResult
from gemtune.jobs.record import Claim, Failure, FencingToken, Job, StepRecord
from gemtune.jobs.status import STATUS_OF, Status, Step

# Number of executions of a step in a row that end without a newer complete checkpoint before the job fails.
FRUITLESS_ATTEMPTS = 3
# The same for executions that the platform ended with SIGTERM, for its own maintenance.
INTERRUPTED_ATTEMPTS = 20
# Seconds between heartbeats of a running attempt.
HEARTBEAT_SECONDS = 5.0
# Cause of an attempt that was asked to stop. Jobs that a user has cancelled are over, and are never assessed.
INTERRUPTED = "sigterm"
# Cause of an attempt that ended because its job has spent what it may.
COST_CAP: Literal["cost_cap"] = "cost_cap"


def executions_of(job: Job) -> list[str]:
    """Return the executions of all attempts, in the order of the attempts.

    The record keeps only some attempts; executions of the others are left out.
    """
    names = [
        name
        for step in job.steps.values()
        for name in (*(attempt.execution for attempt in step.attempts), step.execution)
    ]
    return list(dict.fromkeys(name for name in names if name is not None))


def check_fencing_token(job: Job, fence: FencingToken) -> None:
    """Raise StaleClaim or StaleAttempt unless the writer is up to date.

    It has to be the running attempt of the execution that claims the job.
    """
    check_claim(job, fence.claim)
    step = job.steps[fence.step]
    if step.attempt != fence.attempt or step.state != "running":
        raise StaleAttempt(f"attempt {fence.attempt} of {fence.step} is not the running one of job {job.job_id!r}")


def begin_attempt(
    job: Job, step: Step, claim: Claim, *, execution: str, at: datetime, started_at: datetime | None = None
) -> Changed:
    """Begin the next attempt of a step, and move the job to the step's status.

    A step that is done stays as it is. A job that waited gets the event `job_admitted`, and attempts after the first
    add `<step>_restarted`. Raises StaleClaim.
    started_at: when the attempt's process started, from when its time counts; None: now.
    """
    check_claim(job, claim)
    before = end_silent_attempt(job.steps[step], at=at)
    if before.state == "done":
        return job, ()
    job, events = _end_wait(job, at)
    if job.status is not STATUS_OF[step]:
        job, more = change_status(job, STATUS_OF[step], at=at)
        events = (*events, *more)
    begun = before.model_copy(
        update={
            "state": "running",
            "attempt": before.attempt + 1,
            "execution": execution,
            "started_at": started_at or at,
            "heartbeat_at": at,
            "cause": None,
            "phase": None,
        }
    )
    job = with_step(job, step, begun)
    if begun.attempt > 1:
        job, more = with_event(job, f"{step}_restarted", at, attempt=begun.attempt, cause=before.cause)
        events = (*events, *more)
    return job, events


def record_heartbeat(job: Job, fence: FencingToken, progress: Progress | None, at: datetime) -> Job:
    """Record that the attempt is alive, and its progress unless that is None.

    Raises StaleClaim, StaleAttempt.
    """
    check_fencing_token(job, fence)
    job = with_step(job, fence.step, job.steps[fence.step].model_copy(update={"heartbeat_at": at}))
    return job if progress is None else job.model_copy(update={"progress": progress})


def record_checkpoint(job: Job, fence: FencingToken, *, train_step: int, at: datetime) -> Changed:
    """Record the newest complete checkpoint in the export bucket.

    Raises StaleClaim, StaleAttempt.
    """
    check_fencing_token(job, fence)
    update = {"checkpoint": max(train_step, job.steps[fence.step].checkpoint), "heartbeat_at": at}
    return with_step(job, fence.step, job.steps[fence.step].model_copy(update=update)), ()


def record_phase(job: Job, fence: FencingToken, *, phase: str, at: datetime) -> Changed:
    """Record what the attempt does now. Raises StaleClaim, StaleAttempt."""
    check_fencing_token(job, fence)
    update = {"phase": phase, "heartbeat_at": at}
    return with_step(job, fence.step, job.steps[fence.step].model_copy(update=update)), ()


def record_wandb_url(job: Job, fence: FencingToken, *, wandb_url: str) -> Changed:
    """Record the page at W&B that shows the training.

    The newest attempt may do so even when it has just ended. Raises StaleClaim, StaleAttempt.
    """
    check_claim(job, fence.claim)
    if job.steps[fence.step].attempt != fence.attempt:
        raise StaleAttempt(f"attempt {fence.attempt} of {fence.step} is not the newest one of job {job.job_id!r}")
    return (job if job.wandb_url == wandb_url else job.model_copy(update={"wandb_url": wandb_url})), ()


def record_artifacts(job: Job, fence: FencingToken, artifacts: Sequence[Artifact]) -> Changed:
    """Record complete files of a step that is not done yet.

    Raises StaleClaim, StaleAttempt.
    """
    check_fencing_token(job, fence)
    return job.model_copy(update={"artifacts": tuple(artifacts)}), ()


def stop_attempt(job: Job, fence: FencingToken, *, cause: str, at: datetime, ran: float | None = None) -> Changed:
    """End an unfinished attempt, at a checkpoint or after a crash.

    The step may continue in another one.
    ran: seconds that the attempt has measured. Raises StaleClaim, StaleAttempt.
    """
    check_fencing_token(job, fence)
    return with_step(job, fence.step, end_attempt(job.steps[fence.step], "stopped", at, cause, ran)), ()


def finish_step(
    job: Job, fence: FencingToken, result: StepResult = NO_RESULT, *, at: datetime, ran: float | None = None
) -> Changed:
    """Finish the step and store its result.

    The end of the last step, the export, completes the job.
    ran: seconds that the attempt has measured. Raises StaleClaim, StaleAttempt.
    """
    check_fencing_token(job, fence)
    job = with_step(job, fence.step, end_attempt(job.steps[fence.step], "done", at, None, ran))
    job = job.model_copy(update=result.by_field())
    if fence.step is Step.EXPORT:
        return change_status(job, Status.COMPLETED, at=at, adapter_path=job.adapter_path)
    details: dict[str, Any] = {}
    if result.warnings:
        details["warnings"] = [warning.model_dump() for warning in result.warnings]
    if result.rows is not None:
        details["rows"] = result.rows.model_dump(mode="json")
    if result.plan is not None:
        details["plan"] = result.plan.model_dump(mode="json")
    return with_event(job, f"{fence.step}_done", at, **details)


def assess_execution(job: Job, step: Step, *, round_number: int, cause: str | None, at: datetime) -> Changed:
    """Count an execution that ended without finishing its step.

    Fails the job after too many of them.

    The limit is FRUITLESS_ATTEMPTS executions in a row without a newer complete checkpoint, and INTERRUPTED_ATTEMPTS of
    those that the platform ended.
    round_number: which of the workflow's tries it was. A repeated report has the same one and counts only once.
    cause: how the platform says the execution ended; the record's own cause counts more.
    """
    before = job.steps[step]
    report = f"{before.attempt}/{round_number}"
    if before.last_assessed_report == report:
        return job, ()
    has_newer_checkpoint = before.checkpoint > before.checkpoint_at_last_assessment
    ended = before if before.state != "running" else end_attempt(before, "stopped", at, cause or "crashed")
    is_new = before.last_assessed_report.partition("/")[0] != str(before.attempt)  # else it ended before it began
    was_interrupted = is_new and ended.cause == INTERRUPTED
    update: dict[str, Any] = {
        "fruitless": 0 if has_newer_checkpoint else before.fruitless + (not was_interrupted),
        "interruptions": 0 if has_newer_checkpoint else before.interruptions + was_interrupted,
        "last_assessed_report": report,
        "checkpoint_at_last_assessment": before.checkpoint,
    }
    job = with_step(job, step, ended.model_copy(update=update))
    if update["fruitless"] < FRUITLESS_ATTEMPTS and update["interruptions"] < INTERRUPTED_ATTEMPTS:
        return job, ()
    last_cause = job.steps[step].cause or cause or "it ended without saying why"
    if before.attempt == 0:
        message = f"{step} ended {FRUITLESS_ATTEMPTS} times in a row before it began: {last_cause}"
        hint = "the request is not at fault: see the log of its last execution, fix the trainer's image, submit again"
        return fail_job(job, Failure(code="step_not_begun", message=message, step=step, hint=hint), at=at)
    times = update["fruitless"] + update["interruptions"]
    failure = Failure(
        code="no_progress",
        message=f"{step} ended {times} times in a row without a newer checkpoint: {last_cause}",
        step=step,
        hint="see the log of its last execution; if memory ran out, lower batch_size or max_seq_length",
    )
    return fail_job(job, failure, at=at)


def _end_wait(job: Job, at: datetime) -> Changed:
    """End the job's wait for a machine, if it waits for one."""
    if job.waiting is None:
        return job, ()
    seconds = round(max(0.0, (at - job.waiting.since).total_seconds()))
    job, events = with_event(job, "job_admitted", at, machine=job.waiting.machine, waited_seconds=seconds)
    return job.model_copy(update={"waiting": None}), events


def end_silent_attempt(step: StepRecord, *, at: datetime) -> StepRecord:
    """End an attempt that was killed before it could report its end.

    It is still recorded as running although another one begins. Its time counts up to when its next heartbeat was due,
    which is the latest that it can have run.
    """
    if step.state != "running" or step.heartbeat_at is None:
        return step
    next_heartbeat = step.heartbeat_at + timedelta(seconds=HEARTBEAT_SECONDS)
    return end_attempt(step, "stopped", max(step.heartbeat_at, min(at, next_heartbeat)), "crashed")
