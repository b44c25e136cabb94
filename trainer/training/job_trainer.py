"""Hooks, stops and arguments that the trainers of all methods have in common."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from gemtune.errors import StepError
from gemtune.jobs.parts.metrics import EvaluationMetrics
from gemtune.request import schedule
from gemtune.request.training_config import TrainingConfig
from trainer.model.on_cpu.primitive_cache import limit_primitive_caches
from trainer.training import best_weights
from trainer.training.interface import Hooks, JobTrainer, Setup

Kind = TypeVar("Kind", bound=TrainerCallback)


class LossWindow(TrainerCallback, ExportableState):
    """Losses and metrics since the last log entry, saved in checkpoints.

    A training that resumes between two logged train_steps then logs what an uninterrupted one does. The class name and
    the attributes are stored in checkpoints, so they must not change. summed: the sum of losses. logged_at: the
    train_step of the last log entry. figures: TRL's metrics, lists of values by name.
    """

    def __init__(self) -> None:
        self.summed = 0.0
        self.logged_at: int | None = None
        self.figures: dict[str, list[float]] = {}

    def state(self) -> dict[str, Any]:
        """Return what transformers saves in a checkpoint and restores from it."""
        attributes = {"summed": self.summed, "logged_at": self.logged_at, "figures": self.figures}
        return {"args": {}, "attributes": attributes}


class EarlyStopping(EarlyStoppingCallback):
    """transformers' callback, without its warning that best weights are lost.

    It warns unless `load_best_model_at_end` is set; `best_weights` restores them instead.
    """

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Skip the check for `load_best_model_at_end`."""
        pass


class JobCallback(TrainerCallback):
    """Calls the hooks, and fails the job if the loss is not finite.

    With an evaluation at the end of each epoch, a checkpoint of the epoch's last train_step is saved after that
    evaluation. Otherwise a run that resumes from it would lack the evaluation, and early stopping would not count it.
    """

    def __init__(self, trainer: JobTrainer, hooks: Hooks, *, keeps_best: bool):
        """Call `hooks` for a trainer.

        keeps_best: whether to save a checkpoint of every new best evaluation.
        """
        self._trainer, self._hooks, self._keeps_best = trainer, hooks, keeps_best
        self._save_at_epoch_end = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the losses since the last log entry, when resuming."""
        window = self._window()
        if window.logged_at is not None:
            self._trainer._tr_loss += window.summed
            self._trainer._globalstep_last_logged = window.logged_at
            self._trainer.unlogged_metrics().update(window.figures)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Call `stepped`. Raises StepError `loss_not_finite`."""
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            message = f"the loss is {logs['loss']} at train_step {state.global_step}"
            raise StepError("loss_not_finite", message, hint="lower learning_rate, or raise warmup_ratio")
        self._hooks.stepped(self._trainer, logs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save or stop if a hook says so; prepare what is saved."""
        if self._hooks.must_stop():
            control.should_save = True
            control.should_training_stop = True
        elif self._hooks.must_save():
            control.should_save = True
        if control.should_save:
            self._fill_window(state.global_step, logs_now=control.should_log)
            if args.eval_strategy == "epoch" and _is_epoch_over(state):
                self._save_at_epoch_end, control.should_save = True, False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the checkpoint that waited for the epoch's evaluation.

        transformers also calls this for an interrupted epoch, which an uninterrupted training would not evaluate.
        """
        control.should_save, self._save_at_epoch_end = self._save_at_epoch_end, False
        if not _is_epoch_over(state) and state.global_step < state.max_steps:
            control.should_evaluate = False

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save a checkpoint if this evaluation is the best so far.

        The trainer notes a new best one after this call only.
        """
        if self._keeps_best and best_weights.is_new_best(args, state, kwargs["metrics"]):
            control.should_save = True
            self._fill_window(state.global_step, logs_now=False)

    def _window(self) -> LossWindow:
        """Return the trainer's LossWindow."""
        window = _callback_of(self._trainer, LossWindow)
        assert window is not None  # `attach_hooks` adds one, and a checkpoint replaces it
        return window

    def _fill_window(self, train_step: int, *, logs_now: bool) -> None:
        """Update what a checkpoint of this train_step saves.

        A train_step is logged before it is saved, so nothing is unlogged if `logs_now`.
        """
        window = self._window()
        window.summed = 0.0 if logs_now else self._trainer._tr_loss.item()
        window.logged_at = train_step if logs_now else self._trainer._globalstep_last_logged
        metrics = {} if logs_now else self._trainer.unlogged_metrics()
        window.figures = {name: list(values) for name, values in metrics.items()}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Call `saved` with the folder of the checkpoint."""
        assert args.output_dir is not None  # `arguments` names it
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._hooks.saved(state.global_step, folder, state.best_global_step)


def log_entry(metrics: EvaluationMetrics) -> dict[str, float]:
    """Return metrics under the names that the Trainer expects: `eval_<name>`.

    It logs them, and finds the metric for early stopping and the best checkpoint by these names.
    """
    return {f"eval_{name.removeprefix('eval_')}": value for name, value in metrics.by_name().items()}


def attach_hooks(trainer: JobTrainer, hooks: Hooks, config: TrainingConfig) -> None:
    """Connect a trainer with the job's hooks.

    Also limits the memory that compiled code takes in this process.
    """
    limit_primitive_caches(torch.get_num_threads())
    trainer.hooks = hooks
    trainer.add_callback(LossWindow())
    trainer.add_callback(JobCallback(trainer, hooks, keeps_best=config.keeps_best))
    if config.early_stopping_patience is not None:
        trainer.add_callback(EarlyStopping(config.early_stopping_patience, config.early_stopping_threshold))


def _is_epoch_over(state: TrainerState) -> bool:
    """Return whether the last train_step was an epoch's last."""
    return state.epoch is not None and float(state.epoch).is_integer()


def is_finished(trainer: JobTrainer) -> bool:
    """Return whether nothing is left to train.

    Either all train_steps are done, or early stopping ended the training.
    """
    return _is_state_finished(trainer.state, _callback_of(trainer, EarlyStopping))


def restore_if_finished(trainer: JobTrainer, checkpoint: Path) -> bool:
    """Load a checkpoint into the trainer if it has nothing left to train.

    Returns whether it has. Resuming such a checkpoint would train one step too many, since the stop conditions are
    checked after each train_step only.
    """
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    saved = dict(state.stateful_callbacks or {}).get(EarlyStopping.__name__)
    if not _is_state_finished(state, None if saved is None else EarlyStopping.from_state(saved)):
        return False
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
    return True


def _is_state_finished(state: TrainerState, stopping: EarlyStopping | None) -> bool:
    """Return whether a trainer's state has nothing left to train."""
    is_patient = stopping is None or stopping.early_stopping_patience_counter < stopping.early_stopping_patience
    return state.global_step >= state.max_steps or not is_patient


def _callback_of(trainer: JobTrainer, kind: type[Kind]) -> Kind | None:
    """Return the trainer's callback of a class, or None.

    A resumed training has other instances than were added to it.
    """
    return next((callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind)), None)


def arguments(setup: Setup) -> dict[str, Any]:
    """Return the arguments of transformers' Trainer that a request implies.

    TRL's trainers extend the same ones.
    """
    config, on_gpu = setup.config, torch.cuda.is_available()
    return {
        "output_dir": str(setup.output),
        "learning_rate": config.learning_rate,
        "per_device_train_batch_size": setup.rows_per_batch,
        "per_device_eval_batch_size": setup.rows_per_batch,
        "gradient_accumulation_steps": config.gradient_accumulation_steps * config.batch_size // setup.rows_per_batch,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": schedule.warmup_steps(config, setup.total_steps),
        "weight_decay": config.weight_decay,
        "optim": _optimizer(config, on_gpu=on_gpu),
        "logging_steps": config.logging_steps,
        "logging_nan_inf_filter": False,  # JobCallback must see losses that are not finite
        "eval_strategy": "no" if setup.held_out is None else config.eval_strategy,
        "eval_steps": config.eval_steps,
        "batch_eval_metrics": config.batch_eval_metrics,
        "restore_callback_states_from_checkpoint": True,  # LossWindow, and early stopping's patience so far
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
    """Return the optimizer, by transformers' name.

    If all weights are trained on a GPU, AdamW's moments are in 8 bits (Dettmers et al., 8-bit Optimizers via Block-wise
    Quantization, arXiv:2110.02861), a quarter of the memory. An adapter's moments are small.
    """
    if on_gpu and config.method == "Full" and find_spec("bitsandbytes") is not None:
        return "adamw_bnb_8bit"
    return "adamw_torch_fused"


def save_steps(config: TrainingConfig, total_steps: int) -> int:
    """Return the train_steps between checkpoints.

    As requested; by default a tenth of the training, but at most 100.
    """
    return config.save_steps or max(1, min(100, math.ceil(total_steps / 10)))
