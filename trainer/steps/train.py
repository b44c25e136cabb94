"""Trains: loads, evaluates the base model, trains with checkpoints, evaluates again, and keeps the adapter."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gemtune.errors import ObjectNotFound
from gemtune.jobs.record import EvaluationMetrics, Metrics, Progress, StepResult
from gemtune.jobs.status import Step
from gemtune.request.rl_spec import DpoConfig, GrpoConfig
from gemtune.request.spec import Spec, TrainingConfig
from trainer.base_model import location
from trainer.context import Context
from trainer.export import tokenizer_files, versions
from trainer.model.engines import engine_of
from trainer.model.engines.interface import Engine
from trainer.process.crashes import refuse_unsupported_model
from trainer.process.imports import garbage_collection_paused
from trainer.store import checkpoints, manifest
from trainer.training.interface import Hooks, JobTrainer, Setup
from trainer.training.progress import ProgressLog, rewards_in
from trainer.training.tracking import Tracking

if TYPE_CHECKING:
    from trainer.training.picture_batches import Sight

log = logging.getLogger(__name__)


def run(context: Context) -> None:
    """Train on what prepare left, from the newest whole checkpoint on; leave `adapter/<attempt>/` (or, when all weights
    were trained, `model/<attempt>/`) and the figures.

    Ends early, at a checkpoint, on SIGTERM or when its time is up. Raises StepError, Stale, IncompleteFolder.
    """
    with Tracking(context) as tracking:
        _train(context, tracking)


def _train(context: Context, tracking: Tracking) -> None:
    export, config = context.buckets.export, context.spec.training_config
    engine = engine_of(config.provider)
    _import(engine, context.spec)
    attempt_of_prepare = context.job.steps[Step.PREPARE].attempt
    prepared = manifest.fetch(export, f"{context.prefix}/prepared/{attempt_of_prepare}", context.work / "prepared")
    summary = json.loads((prepared / "prepared.json").read_text())
    base = location.locate(context.buckets, summary["base_model"], context.work)
    held_out = prepared / "eval.parquet" if summary["eval_rows"] else None

    _seed(config.seed)
    attempt = _Attempt(context, ProgressLog(
        export, f"{context.prefix}/metrics/{context.fence.attempt}.jsonl", _reporter(context), context.clock, tracking
    ))  # fmt: skip
    with refuse_unsupported_model(config.base_model_id):
        trainer = _make(Setup(
            engine.load(base, context.spec), config, base, prepared / "train.parquet", held_out,
            output=context.work / "trainer", total_steps=summary["total_train_steps"],
            max_length=summary["max_seq_length"], hooks=attempt.hooks(),
            sight=_sight(base, prepared) if context.spec.modality == "vision" else None,
        ))  # fmt: skip
    with refuse_unsupported_model(config.base_model_id, trained=lambda: trainer.state.global_step > 0):
        baseline = None if held_out is None else _baseline(context, trainer)
        if baseline is not None:
            tracking.evaluated(0, baseline, group="baseline")
        if not _finished(context, trainer, attempt):
            return

    state = trainer.state
    attempt.progress.ended(train_step=state.global_step, total_steps=state.max_steps, epoch=state.epoch or 0.0)
    figures = None if held_out is None else trainer.figures()
    if figures is not None:
        attempt.progress.evaluated(trainer.state.global_step, figures)
        attempt.progress.flush()
    best = _take_best(context, trainer, figures)
    figures = figures if best is None else trainer.figures()
    place = tokenizer_files.trained_folder(config.method)
    folder = context.work / place
    engine.save(trainer.model, folder)
    tokenizer_files.add_tokenizer(base, folder)
    versions.write(folder)
    artifacts = manifest.publish(export, folder, f"{context.prefix}/{place}/{context.fence.attempt}")
    found = dict(figures or {}) | {"train_step": best or state.global_step, "train_loss": _train_loss(trainer)}
    metrics = Metrics.model_validate(found | {"baseline": baseline})
    result = StepResult(metrics=metrics, artifacts=tuple(artifacts))
    context.advance.finish(context.job.job_id, context.fence, result)
    export.delete_prefix(f"{context.prefix}/checkpoints/")


def _import(engine: Engine, spec: Spec) -> None:
    """What training takes, the provider's packages first. Raises StepError."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed is here; PEFT would ask the Hub at every save
    with garbage_collection_paused():
        engine.prepare(spec)
        from transformers.utils import logging as transformers_logging

        _maker(spec.training_config)
    transformers_logging.disable_progress_bar()


def _finished(context: Context, trainer: JobTrainer, attempt: _Attempt) -> bool:
    """Train on from the newest whole checkpoint. False when this attempt had to stop before the end."""
    from trainer.training import job_trainer

    resumed = checkpoints.newest(context.buckets.export, context.prefix, context.work / "resumed")
    log.info("training %s", "from the beginning" if resumed is None else f"from train_step {resumed[0].train_step}")
    attempt.progress.began()
    attempt.last_step_at = context.clock.monotonic()
    if resumed is None or not job_trainer.take_if_finished(trainer, resumed[1]):
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed[1]))
    if attempt.stop_cause is None or job_trainer.is_finished(trainer):
        return True
    attempt.progress.flush()
    log.info("stopped at train_step %d: %s", trainer.state.global_step, attempt.stop_cause)
    context.advance.stop(context.job.job_id, context.fence, cause=attempt.stop_cause)
    return False


def _sight(base: Path, prepared: Path) -> Sight:
    from trainer.training.picture_batches import Sight

    return Sight.of(base, prepared)


def _make(setup: Setup) -> JobTrainer:
    """The trainer of the request's method."""
    return _maker(setup.config)(setup)


def _maker(config: TrainingConfig) -> Callable[[Setup], JobTrainer]:
    """Import what makes trainers of a method. Each imports what it needs, since TRL takes seconds."""
    match config.rl_config:
        case None:
            from trainer.training import sft

            return sft.make
        case DpoConfig():
            from trainer.training import dpo

            return dpo.make
        case GrpoConfig():
            from trainer.training import grpo

            return grpo.make


@dataclass
class _Attempt:
    """What this attempt knows of itself while it trains; times are seconds of the clock's `monotonic`."""

    context: Context
    progress: ProgressLog
    stop_cause: str | None = None
    last_step_at: float | None = None
    longest_step: float = 0.0
    save_seconds: float = 0.0

    def hooks(self) -> Hooks:
        return Hooks(self._stepped, self.progress.evaluated, self._saved, self._must_stop)

    def _stepped(self, trainer: JobTrainer, logs: Mapping[str, float]) -> None:
        self.progress.stepped(
            train_step=trainer.state.global_step,
            total_steps=trainer.state.max_steps,
            epoch=trainer.state.epoch or 0.0,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            tokens=trainer.tokens_seen,
            rewards=rewards_in(logs),
        )

    def _must_stop(self) -> bool:
        """SIGTERM came, or another train_step and a checkpoint would not fit into the time that is left."""
        now = self.context.clock.monotonic()
        if self.last_step_at is not None:
            self.longest_step = max(self.longest_step, now - self.last_step_at)
        self.last_step_at = now
        needed = 2 * (self.longest_step + self.save_seconds)
        if self.context.should_stop():
            self.stop_cause = "sigterm"
        elif self.context.deadline is not None and now + needed >= self.context.deadline:
            self.stop_cause = "out_of_time"
        return self.stop_cause is not None

    def _saved(self, train_step: int, folder: Path, best: int | None) -> None:
        began = self.context.clock.monotonic()
        context, export = self.context, self.context.buckets.export
        self.progress.flush()  # raises when the job is no longer ours, before anything is written
        checkpoints.save(
            export, folder, job_prefix=context.prefix, attempt=context.fence.attempt, train_step=train_step
        )
        context.advance.record_checkpoint(context.job.job_id, context.fence, train_step=train_step)
        checkpoints.prune(export, context.prefix, best=best)
        self.progress.tracking.keep()
        self.last_step_at = self.context.clock.monotonic()
        self.save_seconds = max(self.save_seconds, self.last_step_at - began)


def _take_best(context: Context, trainer: JobTrainer, last: EvaluationMetrics | None) -> int | None:
    """Whose weights the trainer has now, where the best ones are wanted and are not the last ones."""
    from trainer.training import best_weights, job_trainer

    if last is None or not context.spec.training_config.keeps_best:
        return None
    logged, into = job_trainer.logged(last), context.work / "best"
    return best_weights.take(trainer, logged, context.buckets.export, context.prefix, into)


def _reporter(context: Context) -> Callable[[Progress], None]:
    return lambda progress: context.advance.heartbeat(context.job.job_id, context.fence, progress)


def _baseline(context: Context, trainer: JobTrainer) -> EvaluationMetrics:
    """The base model's figures: a fresh adapter changes nothing (its B is zero), and a resumed one is not loaded yet.
    Kept beside the loss curve, so that a resumed training need not evaluate again."""
    export, name = context.buckets.export, f"{context.prefix}/metrics/baseline.json"
    try:
        return EvaluationMetrics.model_validate_json(export.read(name))
    except ObjectNotFound:
        figures = trainer.figures()
        export.write(name, figures.model_dump_json().encode())
        return figures


def _train_loss(trainer: JobTrainer) -> float | None:
    """The last logged loss; the trainer's own mean leaves out what earlier attempts did."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return float(losses[-1]) if losses else None


def _seed(seed: int) -> None:
    """Before the adapter is made, whose A is random."""
    from transformers import set_seed

    set_seed(seed)
