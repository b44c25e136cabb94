"""What the workflow asks: may I run this job, and what comes after this step?"""

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

# Seconds to wait after the first and the second crash in a row: what was away may be back.
CRASH_WAITS = (10, 60)

# Seconds before its timeout at which a step ends itself, with a checkpoint.
MARGIN_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the workflow does next, and how many seconds it waits before."""

    verdict: Verdict
    wait_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Control:
    store: JobStore
    clock: Clock
    timeouts: Mapping[Step, int]  # seconds
    machines: Sequence[str]

    def claim(self, job_id: str, claim: Claim) -> dict[Step, StepJob] | None:
        """Let an execution in: what it needs to run each step; None when it shall end quietly."""
        try:
            job = self.store.update(job_id, lambda job: launches.claim_launch(job, claim))
        except (StaleClaim, JobNotFound) as error:
            log.info("execution %s of launch %d ends quietly: %s", claim.execution, claim.launch, error)
            return None
        return {step: self._step_job(job, claim, step) for step in STEPS}

    def step_ended(self, job_id: str, claim: Claim, step: Step, *, round: int, error: str | None) -> Ruling:
        """An execution of a step ended. The record says how; `error` is the platform's word, for the case that the
        record knows nothing better."""
        now = self.clock.now()

        def judge(job: Job) -> changes.Changed:
            if job.is_over:
                return job, ()
            launches.check_claim(job, claim)
            if job.steps[step].state == "done":
                return job, ()
            return steps.assess_execution(job, step, round=round, cause=error, at=now)

        try:
            job = self.store.update(job_id, judge)
        except (StaleClaim, JobNotFound):
            return Ruling("stop")
        if job.is_over and job.status is not Status.COMPLETED:
            return Ruling("stop")
        if job.steps[step].state == "done":
            return Ruling("done")
        crashes = job.steps[step].fruitless
        return Ruling("again", CRASH_WAITS[min(crashes, len(CRASH_WAITS)) - 1] if crashes else 0)

    def _step_job(self, job: Job, claim: Claim, step: Step) -> StepJob:
        timeout = self.timeouts[step]
        seconds = max(timeout - MARGIN_SECONDS, timeout // 2)
        args = (step.value, "--job-id", job.job_id, "--launch", str(claim.launch), "--execution", claim.execution)
        done = job.steps[step].state == "done"
        name = f"gemtune-{step}"
        if step is Step.TRAIN:  # until prepare has decided, any machine's: the workflow asks again then
            name = f"{name}-{job.machine or self.machines[0]}"
        if step is Step.EXPORT and job.export_machine is not None:
            name = f"{name}-{job.export_machine}"
        return StepJob(name, timeout, done, (*args, "--seconds", str(seconds)))
