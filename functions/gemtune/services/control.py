"""Control of the workflow: who may run a job, and what comes next."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from gemtune.admission import caps, pauses, platform, waits
from gemtune.admission.platform import PlatformError
from gemtune.errors import JobNotFound, StaleClaim
from gemtune.jobs import changes, launches, steps
from gemtune.jobs.record import Claim, Job
from gemtune.jobs.status import LAUNCHABLE, STEPS, Status, Step
from gemtune.machines.cost import Prices
from gemtune.ports import Clock, JobStore, Launcher, StepJob
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.machine_slots import MachineSlots
from gemtune.services.planning.planner import Planner

log = logging.getLogger(__name__)

Verdict = Literal["run", "wait", "done", "again", "stop"]

# Seconds to wait after the first and the second crash in a row, so that an outage may pass.
CRASH_WAITS = (10, 60)

# A step ends itself, with a checkpoint, so many seconds before its timeout.
MARGIN_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds after which a waiting job asks again: at least, and at most.

    In between it is a share of the time that it has waited, which bounds the number of steps of the workflow: a week
    takes about 2,100 questions of 10 to 300 seconds. A machine is then idle for a short part of the wait only.
    """

    least: float
    most: float

    def after(self, waited: timedelta) -> float:
        """Return the seconds until the next question."""
        return round(min(self.most, max(self.least, waited.total_seconds() / 20)), 1)


# The workflow engine of a workstation does not bound its steps.
FOR_SLOTS, FOR_SLOTS_ON_WORKSTATION = Intervals(10, 300), Intervals(0.5, 5)
# The platform is asked less often, since each question is an execution.
FOR_PLATFORM = Intervals(30, 600)


@dataclass(frozen=True, slots=True)
class Ruling:
    """Answer to the workflow.

    verdict: `run`: run the step as `plan` says. `wait`: ask again after wait_seconds. `done`: go to the next step.
    `again`: this step is not done; ask again after wait_seconds. `stop`: end the workflow.
    """

    verdict: Verdict
    wait_seconds: float = 0
    plan: StepJob | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """Service that answers the calls of the workflow.

    timeouts: seconds that an execution of each step may take. machines: names of the deployment's training machines.
    prices: of all its machines.
    """

    store: JobStore
    slots: MachineSlots
    launcher: Launcher
    clock: Clock
    timeouts: Mapping[Step, int]
    machines: Sequence[str]
    planner: Planner
    prices: Prices
    budgets: OwnerBudgets
    intervals: Intervals = FOR_SLOTS

    def claim(self, job_id: str, claim: Claim) -> dict[Step, StepJob] | None:
        """Claim a job for an execution.

        Returns how to run each step; None if the execution has to end quietly.
        """
        try:
            job = self.store.update(job_id, lambda job: launches.claim_launch(job, claim))
        except (StaleClaim, JobNotFound) as error:
            log.info("execution %s of launch %d ends quietly: %s", claim.execution, claim.launch, error)
            return None
        return {step: self._step_job(job, claim, step) for step in STEPS}

    def admit(self, job_id: str, claim: Claim, step: Step) -> Ruling:
        """Decide whether a step may run now: it needs a slot of its machine."""
        try:
            job = self._settled(job_id, claim, step)
            plan = self._step_job(job, claim, step)
            if plan.done:
                self._return_slot(job, claim, step)
                return Ruling("done")
            if job.claim is None or job.is_over:
                self.slots.leave(job_id, plan.machine, launch=claim.launch)  # also the job's place in the queue
                self._return_slot_of_stale(job_id, claim)
                return Ruling("stop")  # it is paused, or cannot go on
            return self._admit(job, claim, step, plan)
        except (StaleClaim, JobNotFound) as error:
            log.info("execution %s stops before %s: %s", claim.execution, step, error)
            return Ruling("stop")

    def _settled(self, job_id: str, claim: Claim, step: Step) -> Job:
        """Return the job, paused if that was asked for or a limit is reached.

        Raises StaleClaim, JobNotFound.
        """
        now, is_budget_spent = self.clock.now(), self._is_budget_spent(job_id)

        def change(job: Job) -> changes.Changed:
            launches.check_claim(job, claim)
            if job.pause is not None or job.steps[step].state in ("running", "done"):
                return pauses.settle(job, at=now)
            if is_budget_spent:
                return caps.pause(job, reason="budget", at=now)
            return caps.check_before(job, step, self.prices, has_budget=self.budgets.budget.usd is not None, at=now)

        return self.store.update(job_id, change)

    def _is_budget_spent(self, job_id: str) -> bool:
        """Return whether the budget of a job's owner is spent."""
        if not self.budgets.budget.exists:
            return False
        job = self.store.get(job_id)
        self.budgets.enter(job)
        return self.budgets.is_spent(job.owner)

    def _admit(self, job: Job, claim: Claim, step: Step, plan: StepJob) -> Ruling:
        """Give the job a slot, or tell it to wait.

        Raises StaleClaim, JobNotFound.
        """
        if not self._is_deployed(job, step):
            return self._wait_for_deployment(job, claim, plan)
        now = self.clock.now()
        place = self.slots.ask(job, plan.machine, launch=claim.launch, seconds=_seconds_to_go(job, step))

        def change(job: Job) -> changes.Changed:
            if place.position:
                return waits.wait_for_slot(
                    job, claim, machine=plan.machine, position=place.position, start=place.start, at=now
                )
            return waits.admit(job, claim, step, machine=plan.machine, cloud_run_job=plan.job, at=now)

        try:
            job = self.store.update(job.job_id, change)
        except (StaleClaim, JobNotFound):
            self.slots.leave(job.job_id, plan.machine, launch=claim.launch)
            raise
        if not place.position:
            return Ruling("run", plan=plan)
        assert job.waiting is not None
        return Ruling("wait", self.intervals.after(now - job.waiting.since))

    def _is_deployed(self, job: Job, step: Step) -> bool:
        """Return whether the deployment has the machine of a step."""
        chosen = {Step.TRAIN: job.machine, Step.EXPORT: job.export_machine}.get(step)
        return chosen is None or chosen in self.machines

    def _wait_for_deployment(self, job: Job, claim: Claim, plan: StepJob) -> Ruling:
        """Let a job wait whose machine was removed since it was chosen.

        It would fail, and lose what it has trained, although the machine may come back. Raises StaleClaim, JobNotFound.
        """
        now = self.clock.now()
        self.slots.leave(job.job_id, plan.machine, launch=claim.launch)
        job = self.store.update(
            job.job_id, lambda job: waits.wait_for_deployment(job, claim, machine=plan.machine, at=now)
        )
        assert job.waiting is not None
        return Ruling("wait", FOR_PLATFORM.after(now - job.waiting.since))

    def step_ended(
        self, job_id: str, claim: Claim, step: Step, *, round_number: int, error: PlatformError | None
    ) -> Ruling:
        """Decide what follows after an execution of a step has ended.

        Usually its record says how it ended.
        round_number: which of the workflow's tries it was. error: what the platform reports, used where the record says
        nothing.
        """
        now, reasons = self.clock.now(), list[str | None]()

        def assess(job: Job) -> changes.Changed:
            reasons[:] = [None]
            if job.is_over:
                return job, ()
            launches.check_claim(job, claim)
            if job.steps[step].state == "done":
                return job, ()
            if job.pause is not None:
                return pauses.settle_lost(job, at=now)
            reasons[:] = [platform.waiting_reason(error, has_begun=waits.has_begun(job, step))]
            if (reason := reasons[0]) is not None:
                return waits.wait_for_platform(job, step, reason=reason, at=now)
            cause = None if error is None else error.message
            return steps.assess_execution(job, step, round_number=round_number, cause=cause, at=now)

        try:
            job = self.store.update(job_id, assess)
        except (StaleClaim, JobNotFound):
            self._return_slot_of_stale(job_id, claim)
            return Ruling("stop")
        if reasons[0] == "pending" and job.admission is not None:
            self.launcher.stop_steps(job.admission.cloud_run_job, job_id)
        ruling = self._ruling(job, step, waits_for_platform=reasons[0] is not None)
        if ruling.verdict != "again":
            self._return_slot(job, claim, step)
        if ruling.verdict == "done":
            self._learn(job, step)
        return ruling

    def _learn(self, job: Job, step: Step) -> None:
        """Add the finished step to the table of speeds; a failure is logged."""
        try:
            self.planner.record(job, step)
        except Exception:
            log.exception("the duration of %s of job %s could not be recorded", step, job.job_id)

    def _ruling(self, job: Job, step: Step, *, waits_for_platform: bool) -> Ruling:
        """Return the verdict on a step that has ended."""
        if job.status not in {*LAUNCHABLE, Status.COMPLETED}:
            return Ruling("stop")
        if job.steps[step].state == "done":
            return Ruling("done")
        if waits_for_platform and job.waiting is not None:
            return Ruling("again", FOR_PLATFORM.after(self.clock.now() - job.waiting.since))
        crashes = job.steps[step].fruitless
        return Ruling("again", CRASH_WAITS[min(crashes, len(CRASH_WAITS)) - 1] if crashes else 0)

    def _return_slot(self, job: Job, claim: Claim, step: Step) -> None:
        """Take back the slot of a step that has ended."""
        self.slots.leave(job.job_id, self._step_job(job, claim, step).machine, launch=claim.launch)

    def _return_slot_of_stale(self, job_id: str, claim: Claim) -> None:
        """Take back the slot that an execution without a claim still holds.

        Its step has ended. It is a launch's own slot, so that of a newer launch stays.
        """
        for machine in self.slots.held_by(job_id, claim.launch):
            self.slots.leave(job_id, machine, launch=claim.launch)

    def _step_job(self, job: Job, claim: Claim, step: Step) -> StepJob:
        """Return the Cloud Run job that runs a step, with its arguments."""
        timeout = self.timeouts[step]
        seconds = max(timeout - MARGIN_SECONDS, timeout // 2)
        args = (step.value, "--job-id", job.job_id, "--launch", str(claim.launch), "--execution", claim.execution)
        done = job.steps[step].state == "done"
        name, machine = f"gemtune-{step}", step.value
        if step is Step.TRAIN:  # before prepare has chosen a machine any will do: the workflow asks again after it
            machine = job.machine or self.machines[0]
            name = f"{name}-{machine}"
        if step is Step.EXPORT and job.export_machine is not None:
            machine = f"{machine}-{job.export_machine}"
            name = f"gemtune-{machine}"
        return StepJob(name, machine, timeout, done, (*args, "--seconds", str(seconds)))


def _seconds_to_go(job: Job, step: Step) -> float | None:
    """Return how long a step is expected to take from now on.

    None if its plan is not known, or if the step has taken longer already.
    """
    estimate = None if job.plan is None else job.plan.steps.get(step)
    left = None if estimate is None else estimate.seconds - job.steps[step].seconds
    return left if left is not None and 0 < left < math.inf else None
