"""The weights of the best evaluation: saved in training, restored at its end."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.ports import Objects
from gemtune.request.rl_spec import GrpoConfig
from gemtune.request.training_config import TrainingConfig
from trainer.store import checkpoints

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

    from trainer.training.interface import JobTrainer

log = logging.getLogger(__name__)


def arguments(config: TrainingConfig) -> dict[str, Any]:
    """Return the arguments that name the Trainer's metric for evaluations.

    `load_best_model_at_end` is not among them: the Trainer would look for the checkpoint on its own disk, and an
    interrupted training may have moved to another machine since.
    """
    if not config.keeps_best and config.early_stopping_patience is None:
        return {}
    by_reward = isinstance(config.rl_config, GrpoConfig)
    return {"metric_for_best_model": "eval_reward" if by_reward else "eval_loss", "greater_is_better": by_reward}


def is_new_best(args: TrainingArguments, state: TrainerState, metrics: Mapping[str, float]) -> bool:
    """Return whether an evaluation is better than all before.

    metrics: by the names that the Trainer logs.
    """
    name, greater = _measure(args)
    return _is_better(metrics[name], state.best_metric, greater=greater)


def restore(
    trainer: JobTrainer, last_metrics: Mapping[str, float], export: Objects, job_prefix: str, into: Path
) -> int | None:
    """Load the best evaluation's weights if they are better than the last.

    last_metrics: of the current weights, by the names that the Trainer logs. into: the folder to fetch the checkpoint
    to. Returns the train_step of the restored weights; None if the current ones stay.
    """
    name, greater = _measure(trainer.args)
    best, metric = trainer.state.best_global_step, trainer.state.best_metric
    if best is None or metric is None or not _is_better(metric, last_metrics[name], greater=greater):
        return None
    folder = checkpoints.at_train_step(export, job_prefix, best, into)
    if folder is None:
        log.warning("the checkpoint of train_step %d, which evaluated best, is gone: the last weights stay", best)
        return None
    trainer._load_from_checkpoint(str(folder))
    shutil.rmtree(into, ignore_errors=True)  # a copy, if there is one
    log.info("the weights are those of train_step %d, which evaluated best", best)
    return int(best)


def _measure(args: TrainingArguments) -> tuple[str, bool]:
    """Return the metric that evaluations are compared by.

    The second value is whether higher is better.
    """
    assert args.metric_for_best_model is not None
    assert args.greater_is_better is not None
    return args.metric_for_best_model, args.greater_is_better


def _is_better(metric: float, best: float | None, *, greater: bool) -> bool:
    """Compare two evaluations as transformers does.

    Any number beats no evaluation (None), and NaN beats none.
    """
    worst = -math.inf if greater else math.inf
    best = worst if best is None else best
    return metric > best if greater else metric < best
