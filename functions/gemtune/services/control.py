"""Control of the workflow: who may run a job, and what comes next."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gemtune.errors import JobNotFound, StaleClaim
from gemtune.jobs import changes, launches, steps
from gemtune.jobs.record import Claim, Job
from gemtune.jobs.status import STEPS, Status, Step
from gemtune.ports import Clock, JobStore, StepJob

log = logging.getLogger(__name__)

Verdict = Literal["done", "again", "stop"]

# Seconds to wait after the first and the second crash in a row, so that an outage may pass.
CRASH_WAITS = (10, 60)

# A step ends itself, with a checkpoint, so many seconds before its timeout.
MARGIN_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Ruling:
    """Decision about an execution that ended.

    verdict: `done`: go to the next step. `again`: run this step again after wait_seconds. `stop`: end the workflow.
    """

    verdict: Verdict
    wait_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Control:
    """Service that answers the calls of the workflow.

    timeouts: seconds that an execution of each step may take. machines: names of the deployment's training machines.
    """

    store: JobStore
    clock: Clock
    timeouts: Mapping[Step, int]
    machines: Sequence[str]

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

    def step_ended(self, job_id: str, claim: Claim, step: Step, *, round_number: int, error: str | None) -> Ruling:
        """Decide what follows after an execution of a step has ended.

        Usually its record says how it ended.
        round_number: which of the workflow's tries it was. error: what the platform reports, used where the record says
        nothing.
        """
        now = self.clock.now()

        def assess(job: Job) -> changes.Changed:
            if job.is_over:
                return job, ()
            launches.check_claim(job, claim)
            if job.steps[step].state == "done":
                return job, ()
            return steps.assess_execution(job, step, round_number=round_number, cause=error, at=now)

        try:
            job = self.store.update(job_id, assess)
        except (StaleClaim, JobNotFound):
            return Ruling("stop")
        if job.is_over and job.status is not Status.COMPLETED:
            return Ruling("stop")
        if job.steps[step].state == "done":
            return Ruling("done")
        crashes = job.steps[step].fruitless
        return Ruling("again", CRASH_WAITS[min(crashes, len(CRASH_WAITS)) - 1] if crashes else 0)

    def _step_job(self, job: Job, claim: Claim, step: Step) -> StepJob:
        """Return the Cloud Run job that runs a step, with its arguments."""
        timeout = self.timeouts[step]
        seconds = max(timeout - MARGIN_SECONDS, timeout // 2)
        args = (step.value, "--job-id", job.job_id, "--launch", str(claim.launch), "--execution", claim.execution)
        done = job.steps[step].state == "done"
        name = f"gemtune-{step}"
        if step is Step.TRAIN:  # before prepare has chosen a machine any will do: the workflow claims again after it
            name = f"{name}-{job.machine or self.machines[0]}"
        if step is Step.EXPORT and job.export_machine is not None:
            name = f"{name}-{job.export_machine}"
        return StepJob(name, timeout, done, (*args, "--seconds", str(seconds)))
