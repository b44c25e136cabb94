"""Executions of the workflow, of steps and of checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class CheckRunner(Protocol):
    """Runner of checks of datasets, which the trainer carries out."""

    def start(self, dataset_id: str, check_id: str) -> None:
        """Start a check, whose record is in the data bucket.

        Returns without waiting for its end. Raises TooManyChecks.
        """
        ...

    def is_running(self, dataset_id: str, check_id: str) -> bool:
        """Return whether a check was started and has not ended."""
        ...


class ExecutionState(StrEnum):
    """States of a workflow execution.

    GONE: the platform does not know the execution any more.
    """

    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"


class Launcher(Protocol):
    """Starts and stops workflow executions and stops executions of steps."""

    def start(self, job_id: str, launch: int) -> str:
        """Start the workflow for a job's launch and return the execution.

        A second call for the same launch returns the same execution.
        """
        ...

    def state(self, execution: str) -> ExecutionState:
        """Return the state of a workflow execution."""
        ...

    def stop(self, execution: str) -> None:
        """Cancel a workflow execution if it is still running."""
        ...

    def stop_step(self, execution: str) -> None:
        """Stop the execution of a step if it is still running.

        The Cloud Run execution or child process gets SIGTERM, and SIGKILL some seconds later.
        """
        ...

    def stop_steps(self, cloud_run_job: str, job_id: str) -> None:
        """Stop all executions of a Cloud Run job that run a step of this job.

        Executions that have not begun yet are stopped too.
        """
        ...


@dataclass(frozen=True, slots=True)
class StepJob:
    """Everything the workflow needs to run one step.

    `job` is the Cloud Run job, `args` its arguments. `done` means that the step has nothing left to run. `machine` is
    the kind of machine whose slots limit how many such executions run at once.
    """

    job: str
    machine: str
    timeout_seconds: int
    done: bool
    args: Sequence[str] = field(default_factory=tuple)
