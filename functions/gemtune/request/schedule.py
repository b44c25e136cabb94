"""The learning rate over a training: how long it rises, and what its scheduler asks for."""

from __future__ import annotations

import math

from gemtune.errors import Problem
from gemtune.request.spec import TrainingConfig

# Where transformers' polynomial schedule ends; it raises an error for a rate that is not above.
POLYNOMIAL_END = 1e-7


def warmup_steps(config: TrainingConfig, train_steps: int) -> int:
    """Return in how many of all train_steps the learning rate rises. It is 0 at the first of them."""
    return math.ceil(config.warmup_ratio * train_steps)


def warmup_problem(config: TrainingConfig, train_steps: int) -> Problem | None:
    """Return what is wrong when the learning rate rises until the end: a training of one train_step would have 0."""
    if warmup_steps(config, train_steps) < train_steps:
        return None
    message = f"warmup takes all train_steps ({train_steps}), so that learning_rate is never reached"
    hint = "lower warmup_ratio (0: no warmup), or train longer by max_steps, epochs or rows"
    return Problem(("training_config", "warmup_ratio"), message, "warmup_without_end", hint)


def rate_problem(config: TrainingConfig) -> Problem | None:
    """Return what is wrong when a schedule that falls begins below its end."""
    if config.lr_scheduler_type != "polynomial" or config.learning_rate > POLYNOMIAL_END:
        return None
    message = f"the polynomial schedule falls to {POLYNOMIAL_END:g}, which is no less than this learning_rate"
    hint = "raise it, or use another lr_scheduler_type"
    return Problem(("training_config", "learning_rate"), message, "learning_rate_too_low", hint)
