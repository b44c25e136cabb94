"""Trackers: TensorBoard event files always, Weights & Biases on request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol

from gemtune.errors import JobNotFound, Stale
from gemtune.jobs.parts.metrics import EvaluationMetrics, Progress
from trainer.context import Context


class Tracker(Protocol):
    """Destination of training metrics, such as TensorBoard."""

    def log(self, train_step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics by their names.

        train_step never decreases, but may repeat.
        """
        ...

    def persist(self) -> None:
        """Make everything logged so far durable: a checkpoint was saved."""
        ...

    def close(self, *, failed: bool) -> None:
        """Release the tracker: this attempt logs nothing more."""
        ...


class Tracking:
    """All trackers of one attempt, as a context manager that closes them."""

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
            if not isinstance(error, Stale | JobNotFound):  # a replaced attempt writes nothing more
                self.persist()

    def stepped(self, progress: Progress, rewards: Mapping[str, float]) -> None:
        """Log the metrics of a train_step.

        rewards: additional metrics of DPO and GRPO.
        """
        metrics = progress.model_dump(
            include={"loss", "learning_rate", "tokens_per_second", "epoch"}, exclude_none=True
        )
        self._log(progress.train_step, {f"train/{name}": value for name, value in (metrics | dict(rewards)).items()})

    def evaluated(self, train_step: int, evaluation: EvaluationMetrics, *, group: str = "eval") -> None:
        """Log an evaluation. group: prefix of its metrics' names."""
        metrics = evaluation.by_name()
        self._log(train_step, {f"{group}/{name.removeprefix('eval_')}": value for name, value in metrics.items()})

    def persist(self) -> None:
        """Make everything logged so far durable."""
        for tracker in self._trackers:
            tracker.persist()

    def _log(self, train_step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(train_step, metrics)
