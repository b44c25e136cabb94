"""Attempt of the train step: progress, checkpoints, and when it stops."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gemtune.errors import ObjectNotFound
from gemtune.jobs.parts.metrics import EvaluationMetrics, Progress
from trainer.context import Context
from trainer.store import checkpoints
from trainer.training.interface import Hooks, JobTrainer
from trainer.training.progress import ProgressLog, rewards_in
from trainer.training.tracking import Tracking


@dataclass
class TrainAttempt:
    """State of an attempt while it trains, and its hooks.

    Times are in seconds of the clock's `monotonic`. stop_cause: why training stops early. saved_at: time of the newest
    checkpoint, at first of the beginning. longest_step, save_seconds, evaluation_seconds: durations so far, the last of
    earlier attempts too. saving: the checkpoint whose weights are uploaded already. saving_began: time at which the
    newest checkpoint began to be saved.
    """

    context: Context
    progress: ProgressLog
    stop_cause: str | None = None
    last_step_at: float | None = None
    saved_at: float | None = None
    longest_step: float = 0.0
    save_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    saving: checkpoints.Saving | None = None
    saving_began: float = 0.0

    @classmethod
    def begin(cls, context: Context, tracking: Tracking) -> TrainAttempt:
        """Return an attempt that has not begun to train.

        Its progress is written to the record, to trackers, and to the attempt's loss curve.
        """

        def report(progress: Progress) -> None:
            context.advance.heartbeat(context.job.job_id, context.fence, progress)

        loss_curve = f"{context.prefix}/metrics/{context.fence.attempt}.jsonl"
        return cls(context, ProgressLog(context.buckets.export, loss_curve, report, context.clock, tracking))

    @property
    def resumed(self) -> Path:
        """The folder for a copy of the checkpoint that training resumes from."""
        return self.context.work / "resumed"

    def hooks(self) -> Hooks:
        """Return the callbacks of this attempt for a trainer."""
        return Hooks(
            self._stepped,
            self._evaluated,
            self._saved,
            self._must_stop,
            self._must_save,
            self._upload_weights,
        )

    def _stepped(self, trainer: JobTrainer, logs: Mapping[str, float]) -> None:
        """Record a logged train_step."""
        self.progress.stepped(
            train_step=trainer.state.global_step,
            total_steps=trainer.state.max_steps,
            epoch=trainer.state.epoch or 0.0,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            tokens=trainer.tokens_seen,
            rewards=rewards_in(logs),
        )

    def recall_evaluation(self) -> None:
        """Take over how long evaluations of earlier attempts took."""
        with suppress(ObjectNotFound, ValueError):
            self.evaluation_seconds = float(self.context.buckets.export.read(self._evaluation_file))

    def note_evaluation(self, seconds: float) -> None:
        """Note how long an evaluation took, for later attempts too."""
        if seconds > self.evaluation_seconds:
            self.evaluation_seconds = seconds
            self.context.buckets.export.write(self._evaluation_file, str(seconds).encode())

    @property
    def seconds_to_end(self) -> float:
        """Seconds that may pass before the next checkpoint, times two."""
        evaluates = self.context.spec.training_config.eval_strategy != "no"
        return 2 * (max(self.longest_step, self.evaluation_seconds if evaluates else 0.0) + self.save_seconds)

    @property
    def _evaluation_file(self) -> str:
        return f"{self.context.prefix}/metrics/evaluation_seconds"

    def _evaluated(self, train_step: int, metrics: EvaluationMetrics) -> None:
        """Record an evaluation of a train_step, which has just ended."""
        if self.last_step_at is not None:
            self.note_evaluation(self.context.clock.monotonic() - self.last_step_at)
        self.progress.evaluated(train_step, metrics)

    def _must_stop(self) -> bool:
        """Return whether to stop now, and note the cause.

        The causes are those of `Context.stop_cause`, and a deadline. A deadline or a cap that leaves no time for
        another train_step and a checkpoint counts as reached, with a factor of two to be safe. So does a cap that
        leaves none for an evaluation, which may follow the train_step.
        """
        now = self.context.clock.monotonic()
        shutil.rmtree(self.resumed, ignore_errors=True)  # it has been loaded, and the next one needs the room
        if self.last_step_at is not None:
            self.longest_step = max(self.longest_step, now - self.last_step_at)
        self.last_step_at = now
        needed = 2 * (self.longest_step + self.save_seconds)
        self.stop_cause = self.context.stop_cause(seconds_to_end=self.seconds_to_end)
        if self.stop_cause is None and self.context.deadline is not None and now + needed >= self.context.deadline:
            self.stop_cause = "out_of_time"
        return self.stop_cause is not None

    def _must_save(self) -> bool:
        """Return whether the newest checkpoint is `save_minutes` old."""
        seconds = 60 * self.context.spec.training_config.save_minutes
        return self.saved_at is not None and self.context.clock.monotonic() - self.saved_at >= seconds

    def _upload_weights(self, train_step: int, folder: Path) -> None:
        """Upload the weights of a checkpoint, whose other files follow."""
        self.saving = self._begin_saving(train_step)
        self.saving.upload(folder)

    def _begin_saving(self, train_step: int) -> checkpoints.Saving:
        """Return the checkpoint of a train_step, without files."""
        self.saving_began = self.context.clock.monotonic()
        self.progress.flush()  # raises before anything is written if another attempt has taken over
        export, attempt = self.context.buckets.export, self.context.fence.attempt
        return checkpoints.Saving.begin(export, job_prefix=self.context.prefix, attempt=attempt, train_step=train_step)

    def _saved(self, train_step: int, folder: Path, best: int | None) -> None:
        """Upload a checkpoint, record it, and delete older ones."""
        context, export = self.context, self.context.buckets.export
        saving = self._begin_saving(train_step) if self.saving is None else self.saving
        saving.finish(folder)
        self.saving = None
        context.advance.record_checkpoint(context.job.job_id, context.fence, train_step=train_step)
        checkpoints.prune(export, context.prefix, best=best)
        self.progress.tracking.persist()
        self.last_step_at = self.saved_at = self.context.clock.monotonic()
        self.save_seconds = max(self.save_seconds, self.last_step_at - self.saving_began)
