"""What a step gets to work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemtune.jobs.record import FencingToken, Job
from gemtune.machines.choice import LOCAL
from gemtune.ports import Buckets, Clock
from gemtune.request.spec import Spec
from gemtune.services.advance import Advance


class StopRequested(Exception):
    """SIGTERM came, and the step has nothing that is worth keeping: it is run again from its beginning."""


@dataclass(frozen=True)
class Context:
    """One attempt of one step.

    work: an empty local folder that goes with the attempt. secret: a secret's value by its role ("hf_token").
    machines: what could train the job. deadline: when the attempt has to be over, in seconds
    of the clock's `monotonic`. should_stop: whether SIGTERM came.
    llama_cpp: where its tools are.
    """

    job: Job
    spec: Spec
    fence: FencingToken
    buckets: Buckets
    advance: Advance
    work: Path
    secret: Callable[[str], str | None]
    deadline: float | None
    clock: Clock
    should_stop: Callable[[], bool]
    machines: Sequence[str] = (LOCAL,)
    llama_cpp: Path = Path("llama.cpp")

    @property
    def prefix(self) -> str:
        """Where everything of the job lies in the export bucket."""
        return f"jobs/{self.job.job_id}"

    @property
    def origin(self) -> str:
        """Where what was prepared and trained lies there: with the job that did."""
        return f"jobs/{self.job.trained_by}"

    def check_stop(self) -> None:
        """Raises StopRequested."""
        if self.should_stop():
            raise StopRequested
