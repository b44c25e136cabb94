"""Learning rate schedule: the length of the warmup, and its rules."""

from __future__ import annotations

import math

from gemtune.errors import Problem
from gemtune.request.training_config import TrainingConfig

# Learning rate at the end of transformers' polynomial schedule, which raises an error for a rate that is not larger.
POLYNOMIAL_END = 1e-7


def warmup_steps(config: TrainingConfig, train_steps: int) -> int:
    """Return the number of train_steps in which the learning rate rises.

    It is 0 at the first of them. train_steps: length of the whole training.
    """
    return math.ceil(config.warmup_ratio * train_steps)


def warmup_problem(config: TrainingConfig, train_steps: int) -> Problem | None:
    """Return what is wrong if the warmup takes the whole training, or None.

    A training of a single train_step would then have the learning rate 0.
    """
    if warmup_steps(config, train_steps) < train_steps:
        return None
    message = f"the warmup takes all train_steps ({train_steps}), so learning_rate is never reached"
    hint = "lower warmup_ratio (0: no warmup), or train longer with more max_steps, epochs or rows"
    return Problem(("training_config", "warmup_ratio"), message, "warmup_without_end", hint)


def rate_problem(config: TrainingConfig) -> Problem | None:
    """Return what is wrong if a schedule begins below its end, or None."""
    if config.lr_scheduler_type != "polynomial" or config.learning_rate > POLYNOMIAL_END:
        return None
    message = f"the polynomial schedule ends at {POLYNOMIAL_END:g}, which is not less than this learning_rate"
    hint = "raise it, or use another lr_scheduler_type"
    return Problem(("training_config", "learning_rate"), message, "learning_rate_too_low", hint)
