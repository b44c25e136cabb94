"""Stopping of everything that runs for a job which is not to go on."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gemtune.jobs.record import Job
from gemtune.ports import Launcher
from gemtune.services.machine_slots import MachineSlots

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StopExecutions:
    """Service that stops the executions of a job and takes back its slots."""

    launcher: Launcher
    slots: MachineSlots

    def __call__(self, job: Job) -> None:
        """Stop the job's workflow, then its step, also one that has not begun.

        The job's record has been changed already: a trainer that still runs learns of it at its next heartbeat and
        stops by itself. So a failure here is only logged.
        job: its record before that change.
        """
        workflow = job.launch.execution if job.claim is None else job.claim.execution
        running = [step.execution for step in job.steps.values() if step.state == "running"]
        try:
            # First, so that the workflow starts no further execution.
            if workflow is not None:
                self.launcher.stop(workflow)
            for execution in running:
                if execution is not None:
                    self.launcher.stop_step(execution)
            if job.admission is not None:
                self.launcher.stop_steps(job.admission.cloud_run_job, job.job_id)
        except Exception:
            log.exception("job %s was ended, but its running executions could not be stopped", job.job_id)
        try:
            self.slots.leave_all(job, lingers=job.admission is not None)
        except Exception:
            log.exception("the slot of job %s could not be taken back; sweep does it", job.job_id)
