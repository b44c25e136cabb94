"""The interface between a trainer class and the train step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import CallbackHandler

    from gemtune.jobs.parts.metrics import EvaluationMetrics
    from gemtune.request.training_config import TrainingConfig
    from trainer.base_model.language_model import LanguageModel
    from trainer.model.engines.interface import LoadedModel
    from trainer.training.audio_batches import AudioCollator
    from trainer.training.picture_batches import PictureCollator


@dataclass(frozen=True, slots=True)
class Hooks:
    """Callbacks from a trainer to the train step.

    stepped: after each logged train_step, with the trainer's log entry. evaluated: after each evaluation, with its
    train_step. saved: with a train_step, its complete checkpoint folder, and the train_step of the best evaluation so
    far. saved_weights: with a train_step and its checkpoint folder, which has only the weights so far; the hook may
    take them away. SFT, the only trainer of all weights, calls it before it saves the optimizer's states. must_stop,
    must_save: called after each train_step; if true, the trainer saves a checkpoint, and ends if must_stop.
    """

    stepped: Callable[[JobTrainer, Mapping[str, float]], None]
    evaluated: Callable[[int, EvaluationMetrics], None]
    saved: Callable[[int, Path, int | None], None]
    must_stop: Callable[[], bool]
    must_save: Callable[[], bool] = lambda: False
    saved_weights: Callable[[int, Path], None] = lambda train_step, folder: None


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that a trainer is built from.

    base: the base model's folder. train, held_out: token files of the prepare step. output: the folder for checkpoints.
    total_steps: train_steps of the whole run. max_length: maximum tokens per row. pictures: only in vision jobs. audio:
    only in audio jobs. starts_with_adapter: whether the adapter is that of another job, not a new one.
    """

    loaded: LoadedModel
    config: TrainingConfig
    base: Path
    train: Path
    held_out: Path | None
    output: Path
    total_steps: int
    max_length: int
    hooks: Hooks
    pictures: PictureCollator | None = None
    audio: AudioCollator | None = None
    starts_with_adapter: bool = False

    @property
    def rows_per_batch(self) -> int:
        """Return how many rows are computed together.

        One where a row's features would depend on the others; gradients of a request's batch are then accumulated.
        """
        return 1 if self.audio is not None and self.audio.one_row_per_batch else self.config.batch_size


class JobTrainer(Protocol):
    """A trainer of transformers or TRL, as the train step uses it.

    Each trainer module has a function `make` that returns one for a Setup. tokens_seen: tokens that this process
    trained on, without padding.
    """

    hooks: Hooks
    tokens_seen: int
    model: LanguageModel
    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler
    # transformers' own: the sum of losses since the last log entry, and the train_step of that entry.
    _tr_loss: torch.Tensor
    _globalstep_last_logged: int

    @property
    def args(self) -> TrainingArguments: ...

    def train(self, resume_from_checkpoint: str | None = None) -> object:
        """Train to the end, or until a hook stops it.

        Raises what hooks raise, and StepError `loss_not_finite`.
        """
        ...

    def evaluation_metrics(self) -> EvaluationMetrics:
        """Return the metrics of the current weights on the held-out rows."""
        ...

    def unlogged_metrics(self) -> dict[str, list[float]]:
        """Return what the trainer logs besides the loss, since its last entry.

        A mutable mapping of names to lists of values; the trainer logs their means.
        """
        ...

    def add_callback(self, callback: TrainerCallback) -> None: ...

    def _load_from_checkpoint(self, resume_from_checkpoint: str) -> None:
        """Load the weights of a checkpoint folder."""
        ...
