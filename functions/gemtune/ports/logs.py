"""Output of the executions of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gemtune.jobs.record import Job


@dataclass(frozen=True, slots=True)
class LogLine:
    """Line of output.

    at: when it was written; None if only its text says that.
    """

    at: datetime | None
    text: str


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines of output of one execution.

    position: where the next ones begin.
    """

    lines: Sequence[LogLine]
    position: str


class Logs(Protocol):
    """Output of the executions that ran a job's steps, without tokens."""

    def executions(self, job: Job) -> Sequence[str]:
        """Return the executions of a job's steps, oldest first."""
        ...

    def read(self, job_id: str, execution: str, *, position: str, limit: int, is_over: bool) -> LogLines:
        """Return up to `limit` lines of an execution from a position on.

        The empty position is the beginning. is_over: whether no more output will come. A call returns lines unless
        there are no more for now; of long ones fewer, with some hundred kilobytes together. Raises BadPageToken for a
        position that is none, NoLogs, and LogsBusy.
        """
        ...
