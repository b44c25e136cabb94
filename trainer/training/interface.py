"""The interface of a trainer class: what a training is made of, and what a job works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import CallbackHandler

    from gemtune.jobs.record import EvaluationMetrics
    from gemtune.request.spec import TrainingConfig
    from trainer.base_model.language_model import LanguageModel
    from trainer.model.engines.interface import Loaded
    from trainer.training.picture_batches import Sight


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a job wants to know and to decide while it trains.

    stepped: after each logged train_step, with the trainer's log entry. evaluated: after each evaluation. saved: the
    checkpoint folder of a train_step is complete, and the best evaluation so far was after that other one.
    must_stop: asked after each train_step; true ends training with a checkpoint.
    """

    stepped: Callable[[JobTrainer, Mapping[str, float]], None]
    evaluated: Callable[[int, EvaluationMetrics], None]
    saved: Callable[[int, Path, int | None], None]
    must_stop: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a trainer is made of.

    base: the base model's folder. train, held_out: token files of `prepare`. output: the folder for checkpoints.
    total_steps: train_steps of the whole training. max_length: tokens per row. sight: of a vision job.
    """

    loaded: Loaded
    config: TrainingConfig
    base: Path
    train: Path
    held_out: Path | None
    output: Path
    total_steps: int
    max_length: int
    hooks: Hooks
    sight: Sight | None = None


class JobTrainer(Protocol):
    """A trainer of transformers or TRL as a job works with it: its `make` takes a Setup.

    tokens_seen: tokens trained on by this process, without padding.
    """

    hooks: Hooks
    tokens_seen: int
    model: LanguageModel
    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler
    # What losses have added up to since one was logged, and after which train_step that was.
    _tr_loss: torch.Tensor
    _globalstep_last_logged: int

    @property
    def args(self) -> TrainingArguments: ...

    def train(self, resume_from_checkpoint: str | None = None) -> object:
        """Train to the end, or until a hook stops it. Raises what hooks raise, StepError `loss_not_finite`."""
        ...

    def figures(self) -> EvaluationMetrics:
        """Metrics of the model as it is now, on the held-out rows."""
        ...

    def unlogged(self) -> dict[str, list[float]]:
        """What else the trainer logs the means of, by name: the values since it last did. They may be added to."""
        ...

    def add_callback(self, callback: TrainerCallback) -> None: ...

    def _load_from_checkpoint(self, resume_from_checkpoint: str) -> None:
        """Take the weights of a checkpoint."""
        ...
