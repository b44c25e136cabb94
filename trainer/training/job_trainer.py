"""What every training of a job has in common, whatever trainer class runs it: hooks, stops, arguments."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from gemtune.errors import StepError
from gemtune.jobs.record import EvaluationMetrics
from gemtune.request import schedule
from gemtune.request.spec import TrainingConfig
from trainer.model.on_cpu.primitive_cache import keep_less_code
from trainer.training import best_weights
from trainer.training.interface import Hooks, JobTrainer, Setup

Kind = TypeVar("Kind", bound=TrainerCallback)


class LossWindow(TrainerCallback, ExportableState):
    """What losses have added up to since one was logged, and what else TRL's trainers log the mean of. It is kept in
    checkpoints, so that a training which goes on from between two logged train_steps logs what an unbroken one does."""

    def __init__(self) -> None:
        self.summed = 0.0
        self.logged_at: int | None = None
        self.figures: dict[str, list[float]] = {}

    def state(self) -> dict[str, Any]:
        kept = {"summed": self.summed, "logged_at": self.logged_at, "figures": self.figures}
        return {"args": {}, "attributes": kept}


class EarlyStopping(EarlyStoppingCallback):
    """transformers', which would warn that the best weights are lost: a job keeps them where it finds them again."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        pass


class JobCallback(TrainerCallback):
    """Calls the hooks, and ends a training whose loss is no number.

    An epoch's evaluation comes after what its last train_step brings. A checkpoint waits for it: going on from one
    without it, a training would forget it, and what it said of stopping early."""

    def __init__(self, trainer: JobTrainer, hooks: Hooks, *, keeps_best: bool):
        self._trainer, self._hooks, self._keeps_best = trainer, hooks, keeps_best
        self._save_waits = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        window = self._window()
        if window.logged_at is not None:
            self._trainer._tr_loss += window.summed
            self._trainer._globalstep_last_logged = window.logged_at
            self._trainer.unlogged().update(window.figures)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            message = f"the loss is {logs['loss']} at train_step {state.global_step}"
            raise StepError("loss_not_finite", message, hint="lower learning_rate, or raise warmup_ratio")
        self._hooks.stepped(self._trainer, logs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._hooks.must_stop():
            control.should_save = True
            control.should_training_stop = True
        if control.should_save:
            self._fill_window(state.global_step, logs_now=control.should_log)
            if args.eval_strategy == "epoch" and _epoch_is_over(state):
                self._save_waits, control.should_save = True, False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """It is called for an epoch that was broken off, too, which an unbroken training would not evaluate."""
        control.should_save, self._save_waits = self._save_waits, False
        if not _epoch_is_over(state) and state.global_step < state.max_steps:
            control.should_evaluate = False

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The trainer notes a new best one only after this."""
        if self._keeps_best and best_weights.is_new_best(args, state, kwargs["metrics"]):
            control.should_save = True
            self._fill_window(state.global_step, logs_now=False)

    def _window(self) -> LossWindow:
        window = _one(self._trainer, LossWindow)
        assert window is not None  # `attach` adds one, and a checkpoint brings its own
        return window

    def _fill_window(self, train_step: int, *, logs_now: bool) -> None:
        """A train_step is logged before it is saved."""
        window = self._window()
        window.summed = 0.0 if logs_now else self._trainer._tr_loss.item()
        window.logged_at = train_step if logs_now else self._trainer._globalstep_last_logged
        figures = {} if logs_now else self._trainer.unlogged()
        window.figures = {name: list(values) for name, values in figures.items()}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert args.output_dir is not None  # `arguments` names it
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._hooks.saved(state.global_step, folder, state.best_global_step)


def logged(figures: EvaluationMetrics) -> dict[str, float]:
    """Our figures under the names that the trainer logs, schedules and stops early by."""
    return {f"eval_{name.removeprefix('eval_')}": value for name, value in figures.by_name().items()}


def attach(trainer: JobTrainer, hooks: Hooks, config: TrainingConfig) -> None:
    """Let a job hear of a trainer and end it; and have it keep to the memory that it needs."""
    keep_less_code(torch.get_num_threads())
    trainer.hooks = hooks
    trainer.add_callback(LossWindow())
    trainer.add_callback(JobCallback(trainer, hooks, keeps_best=config.keeps_best))
    if config.early_stopping_patience is not None:
        trainer.add_callback(EarlyStopping(config.early_stopping_patience, config.early_stopping_threshold))


def _epoch_is_over(state: TrainerState) -> bool:
    return state.epoch is not None and float(state.epoch).is_integer()


def is_finished(trainer: JobTrainer) -> bool:
    """Whether there is nothing left to train: all train_steps are made, or evaluations no longer get better."""
    return _nothing_is_left(trainer.state, _one(trainer, EarlyStopping))


def take_if_finished(trainer: JobTrainer, checkpoint: Path) -> bool:
    """Whether a checkpoint has nothing left to train; if so the trainer is now as it was then. Going on from it would
    make a train_step too many: whether to stop is asked after each."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    kept = dict(state.stateful_callbacks or {}).get(EarlyStopping.__name__)
    if not _nothing_is_left(state, None if kept is None else EarlyStopping.from_state(kept)):
        return False
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
    return True


def _nothing_is_left(state: TrainerState, stopping: EarlyStopping | None) -> bool:
    patient = stopping is None or stopping.early_stopping_patience_counter < stopping.early_stopping_patience
    return state.global_step >= state.max_steps or not patient


def _one(trainer: JobTrainer, kind: type[Kind]) -> Kind | None:
    """The trainer's callback of a kind; a resumed training has others than were added to it."""
    return next((callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind)), None)


def arguments(setup: Setup) -> dict[str, Any]:
    """Arguments of transformers' Trainer, and of TRL's trainers that extend it, that follow from a request."""
    config, on_gpu = setup.config, torch.cuda.is_available()
    return {
        "output_dir": str(setup.output),
        "learning_rate": config.learning_rate,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": schedule.warmup_steps(config, setup.total_steps),
        "weight_decay": config.weight_decay,
        "optim": _optimizer(config, on_gpu=on_gpu),
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,  # a loss that is not finite is what we want to see
        "eval_strategy": "no" if setup.held_out is None else config.eval_strategy,
        "eval_steps": config.eval_steps,
        "batch_eval_metrics": config.batch_eval_metrics,
        "restore_callback_states_from_checkpoint": True,  # how long early stopping has been patient
        **best_weights.arguments(config),
        "save_strategy": "steps",
        "save_steps": save_steps(config, setup.total_steps),
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }


def _optimizer(config: TrainingConfig, *, on_gpu: bool) -> str:
    """By transformers' name. Where all weights are trained, their moments are kept in 8 bits (Dettmers et al., 8-bit
    Optimizers via Block-wise Quantization, arXiv:2110.02861): a quarter of the memory. An adapter's are small."""
    if on_gpu and config.method == "Full" and find_spec("bitsandbytes") is not None:
        return "adamw_bnb_8bit"
    return "adamw_torch_fused"


def save_steps(config: TrainingConfig, total_steps: int) -> int:
    """Train_steps between checkpoints: as asked, or a tenth of the training, at most 100."""
    return config.save_steps or max(1, min(100, math.ceil(total_steps / 10)))
