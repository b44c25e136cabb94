"""Progress of a job: what a running step writes to its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from gemtune.admission import caps, pauses
from gemtune.errors import SecretNotFound
from gemtune.jobs import changes, launches, steps
from gemtune.jobs.parts.holds import PauseReason
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.parts.results import NO_RESULT, Artifact, StepResult
from gemtune.jobs.record import Claim, Failure, FencingToken, Job
from gemtune.jobs.secret_names import SECRET_TTL, job_secrets
from gemtune.jobs.status import Status, Step
from gemtune.jobs.steps import COST_CAP
from gemtune.machines import plan_warnings
from gemtune.machines.cost import Prices
from gemtune.ports import Clock, JobStore, Secrets
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.planning.planner import Planner


@dataclass(frozen=True, slots=True)
class Advance:
    """Service that records what running steps report.

    Every method that takes a fencing token raises JobNotFound, StaleClaim or StaleAttempt when the attempt has been
    replaced or its job is over: the attempt has to stop at once.
    """

    store: JobStore
    secrets: Secrets
    clock: Clock
    service_secrets: Mapping[str, str]  # role -> name, for jobs without their own
    planner: Planner
    prices: Prices
    budgets: OwnerBudgets

    def begin(
        self, job_id: str, step: Step, claim: Claim, *, execution: str, age: float = 0.0
    ) -> tuple[Job, FencingToken] | None:
        """Begin the next attempt of a step.

        Returns the job and the fencing token for the attempt's writes, or None if there is nothing to run: the step is
        done already, or the job is paused instead.
        age: seconds since the attempt's process started, from when the attempt counts.
        Raises JobNotFound, and StaleClaim when the job is over or claimed by another execution.
        """
        now, began = self.clock.now(), self.clock.monotonic() - age
        started_at = now - timedelta(seconds=age)

        def change(job: Job) -> changes.Changed:
            launches.check_claim(job, claim)
            if job.pause is not None:
                return pauses.settle_lost(job, at=now)
            begun, events = steps.begin_attempt(job, step, claim, execution=execution, at=now, started_at=started_at)
            left = caps.seconds_left(begun, step, self.prices)
            is_done = begun.steps[step].state == "done"
            return (begun, events) if is_done or left is None or left > age else caps.pause(job, at=now)

        job = self.store.update(job_id, change)
        if job.steps[step].state == "done" or job.status is Status.PAUSED:
            return None
        for name in job_secrets(job):
            with suppress(SecretNotFound):  # the step that needs it reports a better error
                self.secrets.renew(name, ttl=SECRET_TTL)
        limit, attempt = self._nearest_limit(job, step), job.steps[step].attempt
        return job, FencingToken(claim=claim, step=step, attempt=attempt, began=began, limit=limit)

    def seconds_left(self, job: Job, step: Step) -> float | None:
        """Return how long an attempt may take, by caps and its owner's budget.

        job: as `begin` returned it. It counts from the attempt's start. None without a cap and a budget.
        """
        limits = (caps.seconds_left(job, step, self.prices), self.budgets.seconds_left(job, step))
        return min((each for each in limits if each is not None), default=None)

    def secret(self, job: Job, role: str) -> str | None:
        """Return the job's secret for a role, or else the service's own.

        None if neither has one.
        role: `hf_token` or `wandb_api_key`. Raises SecretNotFound when the secret was deleted.
        """
        name = job.secret_names.get(role) or self.service_secrets.get(role)
        return None if name is None else self.secrets.read(name)

    def heartbeat(self, job_id: str, fence: FencingToken, progress: Progress | None = None) -> bool:
        """Record that the attempt is alive, and its progress if it has any.

        Returns whether the job is to be paused: the attempt then stops at its next checkpoint.
        """
        return self.store.record_progress(job_id, fence, progress, self.clock.now()).pause is not None

    def record_checkpoint(self, job_id: str, fence: FencingToken, *, train_step: int) -> None:
        """Record the newest complete checkpoint in the export bucket."""
        now = self.clock.now()
        self.store.update(job_id, lambda job: steps.record_checkpoint(job, fence, train_step=train_step, at=now))

    def record_phase(self, job_id: str, fence: FencingToken, *, phase: str) -> None:
        """Record what the attempt does now, in words for its user."""
        now = self.clock.now()
        self.store.update(job_id, lambda job: steps.record_phase(job, fence, phase=phase, at=now))

    def record_wandb_url(self, job_id: str, fence: FencingToken, *, wandb_url: str) -> None:
        """Record the page at W&B that shows the training."""
        self.store.update(job_id, lambda job: steps.record_wandb_url(job, fence, wandb_url=wandb_url))

    def record_artifacts(self, job_id: str, fence: FencingToken, artifacts: Sequence[Artifact]) -> None:
        """Record files of the job's result before the step ends.

        They stay in the record even if the rest of the step fails.
        """
        self.store.update(job_id, lambda job: steps.record_artifacts(job, fence, artifacts))

    def stop(self, job_id: str, fence: FencingToken, *, cause: str) -> None:
        """End the attempt early, at a checkpoint or after a crash.

        The step may be retried. If a pause was asked for, or the cause is a cap, it begins now.
        """
        now, ran = self.clock.now(), self._seconds_since_begin(fence)

        def change(job: Job) -> changes.Changed:
            stopped, events = steps.stop_attempt(job, fence, cause=cause, at=now, ran=ran)
            if cause != COST_CAP:
                paused, more = pauses.settle(stopped, at=now)
            else:
                paused, more = caps.pause(stopped, reason=fence.limit or COST_CAP, at=now)
            return paused, (*events, *more)

        self.store.update(job_id, change)

    def fail(self, job_id: str, fence: FencingToken, failure: Failure) -> None:
        """Fail the job for good."""
        now, ran = self.clock.now(), self._seconds_since_begin(fence)

        def change(job: Job) -> changes.Changed:
            steps.check_fencing_token(job, fence)
            return changes.fail_job(job, failure, at=now, ran=ran)

        self.store.update(job_id, change)

    def finish(self, job_id: str, fence: FencingToken, result: StepResult = NO_RESULT) -> None:
        """Finish the step. The end of the export completes the job.

        The job is paused if its request says so, or if a pause was asked for.
        """
        now, ran = self.clock.now(), self._seconds_since_begin(fence)

        def change(job: Job) -> changes.Changed:
            finished, events = steps.finish_step(job, fence, _with_plan_warnings(result, job), at=now, ran=ran)
            paused, more = pauses.pause_after(finished, fence.step, at=now)
            paused, last = pauses.settle(paused, at=now)
            return paused, (*events, *more, *last)

        self.store.update(job_id, change)

    def _nearest_limit(self, job: Job, step: Step) -> PauseReason | None:
        """Return which limit a job reaches first: its cap, or the budget."""
        of_budget, of_cap = self.budgets.seconds_left(job, step), caps.seconds_left(job, step, self.prices)
        if of_budget is None:
            return None if of_cap is None else COST_CAP
        return "budget" if of_cap is None or of_budget < of_cap else COST_CAP

    def _seconds_since_begin(self, fence: FencingToken) -> float | None:
        """Return the seconds since the attempt began; None if unknown.

        They are measured by this process's monotonic clock.
        """
        return None if fence.began is None else self.clock.monotonic() - fence.began


def _with_plan_warnings(result: StepResult, job: Job) -> StepResult:
    """Return the result of a step; prepare adds warnings about its plan.

    They replace those of the request, whose plan was not exact.
    """
    if result.plan is None:
        return result
    warnings = plan_warnings.warnings_of(result.plan, job.max_cost_usd, job.max_hours)
    return result.model_copy(update={"warnings": (*(result.warnings or ()), *warnings)})
