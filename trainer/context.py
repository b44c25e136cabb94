"""The context that a step runs in."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gemtune.errors import JobNotFound, Stale
from gemtune.jobs.parts.results import StepResult
from gemtune.jobs.record import FencingToken, Job
from gemtune.jobs.steps import COST_CAP, INTERRUPTED
from gemtune.machines.choice import LOCAL
from gemtune.ports import Buckets, Clock
from gemtune.request.spec import Spec
from gemtune.services.advance import Advance

log = logging.getLogger(__name__)


class StopRequested(Exception):
    """Raised in a step that has to end and has nothing to save.

    The next attempt runs the step from its beginning, or from its newest checkpoint.
    cause: see `Context.stop_cause`.
    """

    def __init__(self, cause: str = INTERRUPTED):
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True)
class Context:
    """One attempt of one step, with all it may use.

    fence: the fencing token that every write to the record carries. work: an empty local folder, deleted after the
    attempt. secret: returns a secret by its role ("hf_token"). deadline: when the attempt has to end, in seconds of the
    clock's `monotonic`; None for no limit. should_stop: returns whether to stop, after SIGTERM or when the attempt was
    superseded. should_pause: returns whether the job is to be paused. machines: those that may train the job.
    llama_cpp: the folder of llama.cpp's tools. mounted: whether large files are read from the buckets' mounts, because
    the local disk is memory. cap_reached_at: when the job will have spent what it may, by the same
    clock as the deadline; None without a cap. trains: set during the train_steps, which end at a checkpoint by
    themselves. on_done: called once the step is recorded as done. purpose: of a part of the step that is done in
    addition, told with each phase.
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
    should_pause: Callable[[], bool] = lambda: False
    machines: Sequence[str] = (LOCAL,)
    llama_cpp: Path = Path("llama.cpp")
    mounted: bool = False
    cap_reached_at: float | None = None
    trains: threading.Event = field(default_factory=threading.Event)
    on_done: Callable[[], None] = lambda: None
    purpose: str = ""

    @property
    def prefix(self) -> str:
        """The prefix of the job's objects in the export bucket."""
        return f"jobs/{self.job.job_id}"

    def enter(self, phase: str) -> None:
        """Tell the user what the attempt does from now on.

        A store that cannot be reached does not end the attempt for it. Raises Stale, JobNotFound.
        """
        try:
            full = f"{self.purpose}: {phase}" if self.purpose else phase
            self.advance.record_phase(self.job.job_id, self.fence, phase=full)
        except (Stale, JobNotFound):
            raise
        except Exception as error:
            log.warning("the phase %r was not recorded: %s", phase, error)

    def finish(self, result: StepResult) -> None:
        """Record that the step is done.

        Raises Stale, JobNotFound.
        """
        self.advance.finish(self.job.job_id, self.fence, result)
        self.on_done()

    def check_stop(self) -> None:
        """Raise StopRequested if the attempt should stop or pause."""
        if (cause := self.stop_cause()) is not None:
            raise StopRequested(cause)

    def stop_cause(self, *, seconds_to_end: float = 0.0) -> str | None:
        """Return why the attempt should end now; None if it should not.

        The causes are `sigterm`, `paused` and `cost_cap`. Stale attempts have the first one too.
        seconds_to_end: how long it takes to end at a later time instead.
        """
        return INTERRUPTED if self.should_stop() else self._pause_cause(seconds_to_end)

    def seconds_over_cap(self) -> float:
        """Return the seconds since the cap was reached; negative before that."""
        return -math.inf if self.cap_reached_at is None else self.clock.monotonic() - self.cap_reached_at

    def check_pause(self, *, seconds_to_end: float = 0.0) -> None:
        """Raise StopRequested if the job is to be paused, or a cap is reached.

        For work of the train step outside of its train_steps, which goes on after SIGTERM: there is nothing to save.
        seconds_to_end: as in `stop_cause`.
        """
        if (cause := self._pause_cause(seconds_to_end)) is not None:
            raise StopRequested(cause)

    def _pause_cause(self, seconds_to_end: float) -> str | None:
        """Return why the job should be paused now; None if it should not."""
        if self.should_pause():
            return "paused"
        is_spent = self.cap_reached_at is not None and self.clock.monotonic() + seconds_to_end >= self.cap_reached_at
        return COST_CAP if is_spent else None
