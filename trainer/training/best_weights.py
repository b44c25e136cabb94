"""The weights of the best evaluation: kept as a checkpoint while training goes on, and taken again at its end."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.ports import Objects
from gemtune.request.rl_spec import GrpoConfig
from gemtune.request.spec import TrainingConfig
from trainer.store import checkpoints

if TYPE_CHECKING:
    from transformers import TrainerState, TrainingArguments

    from trainer.training.interface import JobTrainer

log = logging.getLogger(__name__)


def arguments(config: TrainingConfig) -> dict[str, Any]:
    """What transformers' Trainer measures evaluations by. It is not asked to load the best itself: it looks for a
    checkpoint on its own disk, and a training may have gone on elsewhere since."""
    if not config.keeps_best and config.early_stopping_patience is None:
        return {}
    by_reward = isinstance(config.rl_config, GrpoConfig)
    return {"metric_for_best_model": "eval_reward" if by_reward else "eval_loss", "greater_is_better": by_reward}


def is_new_best(args: TrainingArguments, state: TrainerState, metrics: Mapping[str, float]) -> bool:
    """Whether no evaluation before was as good."""
    name, greater = _measure(args)
    return _is_better(metrics[name], state.best_metric, greater=greater)


def take(trainer: JobTrainer, last: Mapping[str, float], export: Objects, job_prefix: str, into: Path) -> int | None:
    """Let the trainer have the weights of its best evaluation, if that was better than the last; of which train_step
    they are, or None when they are the last ones. last: figures of the weights as they are, as the trainer logs
    them."""
    name, greater = _measure(trainer.args)
    best, metric = trainer.state.best_global_step, trainer.state.best_metric
    if best is None or metric is None or not _is_better(metric, last[name], greater=greater):
        return None
    folder = checkpoints.at_train_step(export, job_prefix, best, into)
    if folder is None:
        log.warning("the checkpoint of train_step %d, which evaluated best, is gone: the last weights stay", best)
        return None
    trainer._load_from_checkpoint(str(folder))
    shutil.rmtree(folder)
    log.info("the weights are those of train_step %d, which evaluated best", best)
    return int(best)


def _measure(args: TrainingArguments) -> tuple[str, bool]:
    """The metric that evaluations are compared by, and whether more of it is better: as `arguments` says."""
    assert args.metric_for_best_model is not None
    assert args.greater_is_better is not None
    return args.metric_for_best_model, args.greater_is_better


def _is_better(found: float, than: float | None, *, greater: bool) -> bool:
    """As transformers compares: the first is better than nothing, and nan better than none."""
    worst = -math.inf if greater else math.inf
    than = worst if than is None else than
    return found > than if greater else found < than
