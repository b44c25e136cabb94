"""Trackers: TensorBoard event files always, Weights & Biases on request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol

from gemtune.errors import JobNotFound, Stale
from gemtune.jobs.record import EvaluationMetrics, Progress
from trainer.context import Context


class Tracker(Protocol):
    def log(self, train_step: int, figures: Mapping[str, float]) -> None:
        """Metrics by their names; a train_step may come several times, and never before an earlier one."""
        ...

    def keep(self) -> None:
        """A checkpoint is there, or the end: what was logged up to here shall not get lost any more."""
        ...

    def close(self, *, failed: bool) -> None:
        """Nothing comes any more from this attempt."""
        ...


class Tracking:
    """All trackers of one attempt. A context, so that each is closed however the attempt ends."""

    def __init__(self, context: Context):
        self._context = context
        self._trackers: list[Tracker] = []

    def __enter__(self) -> Tracking:
        from trainer.training.tracking.tensorboard import EventFiles

        self._trackers.append(EventFiles(self._context))
        if self._context.spec.wandb_config is not None:
            from trainer.training.tracking import wandb_run

            self._trackers.append(wandb_run.start(self._context))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as closing:
            for tracker in self._trackers:
                closing.callback(tracker.close, failed=kind is not None)
            if not isinstance(error, Stale | JobNotFound):  # what is no longer ours is not written to
                self.keep()

    def stepped(self, progress: Progress, rewards: Mapping[str, float]) -> None:
        """rewards: what reinforcement learning says besides."""
        shown = progress.model_dump(include={"loss", "learning_rate", "tokens_per_second", "epoch"}, exclude_none=True)
        self._log(progress.train_step, {f"train/{name}": value for name, value in (shown | dict(rewards)).items()})

    def evaluated(self, train_step: int, figures: EvaluationMetrics, *, group: str = "eval") -> None:
        shown = figures.by_name()
        self._log(train_step, {f"{group}/{name.removeprefix('eval_')}": value for name, value in shown.items()})

    def keep(self) -> None:
        for tracker in self._trackers:
            tracker.keep()

    def _log(self, train_step: int, figures: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(train_step, figures)
