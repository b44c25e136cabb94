"""The train step: resumes from the newest checkpoint, and saves the adapter.

It evaluates the base model before training, and the trained model afterwards.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.errors import ObjectNotFound
from gemtune.jobs.parts.metrics import EvaluationMetrics, Metrics
from gemtune.jobs.parts.results import StepResult
from gemtune.jobs.status import Step
from gemtune.methods import Modality
from gemtune.request.rl_spec import DpoConfig, GrpoConfig, KtoConfig
from gemtune.request.spec import Spec
from gemtune.request.training_config import TrainingConfig
from gemtune.training_files.checkpoint_names import checkpoints_folder
from trainer.base_model import continuation, location
from trainer.certificate import held_out_rows
from trainer.context import Context
from trainer.export import tokenizer_files, versions
from trainer.model.engines import engine_of
from trainer.model.engines.interface import Engine, LoadedModel, StartingPoint
from trainer.new_tokens import embedding, tokenizer
from trainer.process.crashes import refuse_unsupported_model
from trainer.process.imports import garbage_collection_paused
from trainer.steps import recording
from trainer.steps.train_attempt import TrainAttempt
from trainer.store import checkpoints, manifest
from trainer.training.interface import JobTrainer, Setup
from trainer.training.tracking import Tracking

if TYPE_CHECKING:
    from trainer.training.audio_batches import AudioCollator
    from trainer.training.picture_batches import PictureCollator

log = logging.getLogger(__name__)


def run(context: Context) -> None:
    """Train on the prepared data, from the newest complete checkpoint on.

    Writes `adapter/<attempt>/` (`model/<attempt>/` if all weights were trained) and records the metrics. Ends early, at
    a checkpoint, on SIGTERM or when its time is up. Raises StepError, Stale, IncompleteFolder.
    """
    with Tracking(context) as tracking:
        _train(context, tracking)


def _train(context: Context, tracking: Tracking) -> None:
    """Load, evaluate, train, evaluate, save; see `run`."""
    export, config = context.buckets.export, context.spec.training_config
    engine = engine_of(config.provider)
    context.enter("loading the model")
    _import_packages(engine, context.spec)
    attempt_of_prepare = context.job.steps[Step.PREPARE].attempt
    prepared = manifest.fetch(export, f"{context.prefix}/prepared/{attempt_of_prepare}", context.work / "prepared")
    summary = json.loads((prepared / "prepared.json").read_text())
    weights = location.locate(context.buckets, summary["base_model"], context.work, summary.get("base_digests"))
    base = tokenizer.with_new_tokens(weights, prepared, context.work / "base_with_new_tokens")
    start = replace(_starting_point(context, summary), new_tokens=embedding.read(prepared))
    held_out = prepared / "eval.parquet" if summary["eval_rows"] else None

    _seed(config.seed)
    attempt = TrainAttempt.begin(context, tracking)
    rows = held_out_rows.collect(prepared, base)
    pictures, audio = _collators(context.spec.modality, base, prepared)
    with refuse_unsupported_model(config.base_model_id):
        loaded = engine.load(base, context.spec, start)
        location.check_unchanged(context.buckets, summary["base_model"], weights, summary.get("base_digests"))
        _log_attention(loaded, config)
        before = recording.record_base(loaded, rows, config, pictures or audio)
        trainer = _make(
            Setup(
                loaded,
                config,
                base,
                prepared / "train.parquet",
                held_out,
                output=context.work / "trainer",
                total_steps=summary["total_train_steps"],
                max_length=summary["max_seq_length"],
                hooks=attempt.hooks(),
                pictures=pictures,
                audio=audio,
                starts_with_adapter=start.adapter is not None,
            )
        )
    with refuse_unsupported_model(config.base_model_id, trained=lambda: trainer.state.global_step > 0):
        baseline = None if held_out is None else _baseline(context, trainer, attempt)
        if baseline is not None:
            tracking.evaluated(0, baseline, group="baseline")
        if not _train_to_end(context, trainer, attempt):
            return

    state = trainer.state
    attempt.progress.ended(train_step=state.global_step, total_steps=state.max_steps, epoch=state.epoch or 0.0)
    context.enter("evaluating the trained model")
    best, evaluation = (None, None) if held_out is None else _evaluate_best(context, trainer, attempt)
    context.check_pause()
    context.enter("saving the trained weights")
    folder = _save(context, trainer, base, start)
    artifacts = manifest.publish(export, folder, f"{context.prefix}/{folder.name}/{context.fence.attempt}")
    context.enter("asking the trained model, for the certificate")
    recording.publish_reference(context, replace(loaded, model=trainer.model), rows, before, pictures or audio)
    values = dict(evaluation or {}) | {"train_step": best or state.global_step, "train_loss": _train_loss(trainer)}
    metrics = Metrics.model_validate(values | {"baseline": baseline})
    context.finish(StepResult(metrics=metrics, artifacts=tuple(artifacts)))
    export.delete_prefix(checkpoints_folder(context.prefix))


def _log_attention(loaded: LoadedModel, config: TrainingConfig) -> None:
    """Log how the model computes attention."""
    from trainer.model import attention_report

    attention_report.write(loaded.model, loaded.compute_dtype, config.provider)


def _starting_point(context: Context, summary: Mapping[str, Any]) -> StartingPoint:
    """Return the weights that training starts from, besides the base model's.

    summary: prepared.json. One of an older version has no base_dtype.
    """
    job, buckets = context.job, context.buckets
    adapter = continuation.fetch_adapter(job.base_weights, buckets, context.work)
    base_name = None if job.base_model_folder is None else buckets.export.uri(job.base_model_folder)
    return StartingPoint(adapter, base_name, summary.get("base_dtype"))


def _save(context: Context, trainer: JobTrainer, base: Path, start: StartingPoint) -> Path:
    """Write the adapter or the model, with its tokenizer and versions.

    Returns the folder. base: folder of the base model.
    """
    config = context.spec.training_config
    folder = context.work / tokenizer_files.trained_folder(config.method)
    engine_of(config.provider).save(trainer.model, folder)
    tokenizer_files.add_tokenizer(base, folder)
    if start.new_tokens is not None and config.method != "Full":
        start.new_tokens.write(folder)
    versions.write(folder)
    return folder


def _import_packages(engine: Engine, spec: Spec) -> None:
    """Import what training needs, the provider's packages first.

    Raises StepError.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all files are local; PEFT would ask the Hub at every save
    with garbage_collection_paused():
        engine.prepare(spec)
        from transformers.utils import logging as transformers_logging

        _import_make(spec.training_config)
    transformers_logging.disable_progress_bar()


def _train_to_end(context: Context, trainer: JobTrainer, attempt: TrainAttempt) -> bool:
    """Train on from the newest complete checkpoint.

    Returns False if this attempt had to stop before the end.
    """
    from trainer.training import job_trainer

    resumed = checkpoints.newest(context.buckets.export, context.prefix, attempt.resumed)
    context.check_pause(seconds_to_end=attempt.seconds_to_end)
    log.info("training %s", "from the beginning" if resumed is None else f"from train_step {resumed[0].train_step}")
    context.enter("training")
    attempt.progress.began()
    attempt.last_step_at = attempt.saved_at = context.clock.monotonic()
    if resumed is None or not job_trainer.restore_if_finished(trainer, resumed[1]):
        context.trains.set()
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed[1]))
        context.trains.clear()
    if attempt.stop_cause is None or job_trainer.is_finished(trainer):
        return True
    attempt.progress.flush()
    log.info("stopped at train_step %d: %s", trainer.state.global_step, attempt.stop_cause)
    context.advance.stop(context.job.job_id, context.fence, cause=attempt.stop_cause)
    return False


def _collators(modality: Modality, base: Path, prepared: Path) -> tuple[PictureCollator | None, AudioCollator | None]:
    """Return the data collators of pictures and of audio.

    A job has one of them at most.
    """
    if modality == "vision":
        from trainer.training.picture_batches import PictureCollator

        return PictureCollator.from_folders(base, prepared), None
    if modality == "audio":
        from trainer.training.audio_batches import AudioCollator

        return None, AudioCollator.from_folders(base, prepared)
    return None, None


def _make(setup: Setup) -> JobTrainer:
    """Return the trainer of the request's method."""
    return _import_make(setup.config)(setup)


def _import_make(config: TrainingConfig) -> Callable[[Setup], JobTrainer]:
    """Import the trainer module of a method; return its `make`.

    Other methods are not imported, since TRL takes seconds.
    """
    match config.rl_config:
        case None:
            from trainer.training import sft

            return sft.make
        case DpoConfig():
            from trainer.training.preference import dpo

            return dpo.make
        case KtoConfig():
            from trainer.training.preference import kto

            return kto.make
        case GrpoConfig():
            from trainer.training import grpo

            return grpo.make


def _evaluate_best(
    context: Context, trainer: JobTrainer, attempt: TrainAttempt
) -> tuple[int | None, EvaluationMetrics]:
    """Evaluate the last weights; load the best ones if they are to be kept.

    Returns the train_step of the best ones, or None if the trainer keeps the last; and the metrics of those it has now.
    """
    from trainer.training import best_weights, job_trainer

    last = _evaluate(context, trainer)
    attempt.progress.evaluated(trainer.state.global_step, last)
    attempt.progress.flush()
    if not context.spec.training_config.keeps_best:
        return None, last
    logged, into = job_trainer.log_entry(last), context.work / "best"
    best = best_weights.restore(trainer, logged, context.buckets.export, context.prefix, into)
    return best, last if best is None else _evaluate(context, trainer)


def _baseline(context: Context, trainer: JobTrainer, attempt: TrainAttempt) -> EvaluationMetrics:
    """Return the metrics of the model that training starts from.

    The trainer's model still is that model: a fresh adapter changes nothing (its B is zero), and no checkpoint is
    loaded yet. The metrics are stored next to the loss curve, so that a resumed run need not evaluate again.
    """
    export, name = context.buckets.export, f"{context.prefix}/metrics/baseline.json"
    attempt.recall_evaluation()
    try:
        return EvaluationMetrics.model_validate_json(export.read(name))
    except ObjectNotFound:
        context.enter("evaluating the base model")
        began = context.clock.monotonic()
        metrics = _evaluate(context, trainer)
        attempt.note_evaluation(context.clock.monotonic() - began)
        export.write(name, metrics.model_dump_json().encode())
        return metrics


def _evaluate(context: Context, trainer: JobTrainer) -> EvaluationMetrics:
    """Return the metrics of the current weights on the held-out rows.

    Nothing is lost if the job is to be paused meanwhile: raises StopRequested before a forward pass then.
    """
    hook = trainer.model.register_forward_pre_hook(lambda *_: context.check_pause())
    try:
        return trainer.evaluation_metrics()
    finally:
        hook.remove()


def _train_loss(trainer: JobTrainer) -> float | None:
    """Return the last logged loss; None if there is none.

    transformers' own `train_loss` is wrong after a resume, because it sums the losses of this attempt only.
    """
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return float(losses[-1]) if losses else None


def _seed(seed: int) -> None:
    """Seed all random generators, before the adapter's A is drawn."""
    from transformers import set_seed

    set_seed(seed)
