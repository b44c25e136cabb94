"""TRL's SFTTrainer on tokens that are prepared already, with exact evaluation and the hooks of a job."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from gemtune.errors import StepError
from gemtune.job import Figures
from gemtune.spec import TrainingConfig
from trainer import metrics


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a job wants to know and to decide while it trains.

    stepped: after each logged train_step, with the trainer's log entry. evaluated: after each evaluation. saved: a
    checkpoint folder is complete. must_stop: asked after each train_step; true ends training with a checkpoint.
    """

    stepped: Callable[[JobTrainer, Mapping[str, float]], None]
    evaluated: Callable[[int, Figures], None]
    saved: Callable[[int, Path], None]
    must_stop: Callable[[], bool]


class JobTrainer(SFTTrainer):
    """Evaluates by our own sums instead of means of batch means, and counts the tokens it trained on."""

    hooks: Hooks
    wanted_metrics: list[str]
    tokens_seen = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.tokens_seen += int(inputs["attention_mask"].sum().item())
        return super().training_step(model, inputs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Our figures under the names that the trainer logs, schedules and stops early by."""
        figures = self.figures()
        logged = {f"eval_{name.removeprefix('eval_')}": value for name, value in figures if value is not None}
        self.log(logged)
        self.hooks.evaluated(self.state.global_step, figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)
        return logged

    def figures(self) -> Figures:
        """Loss, accuracy and perplexity of the model as it is now, on the held-out rows."""
        return metrics.evaluate(self.model, self.get_eval_dataloader()).figures(self.wanted_metrics)


class _JobCallback(TrainerCallback):
    def __init__(self, trainer: JobTrainer):
        self._trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            message = f"the loss is {logs['loss']} at train_step {state.global_step}"
            raise StepError("loss_not_finite", message, hint="lower learning_rate, or raise warmup_ratio")
        self._trainer.hooks.stepped(self._trainer, logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.hooks.must_stop():
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.hooks.saved(state.global_step, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def make(
    model: Any, tokenizer: Any, config: TrainingConfig, train: Path, held_out: Path | None, *, output: Path,
    total_steps: int, hooks: Hooks,
) -> JobTrainer:  # fmt: skip
    """A trainer for token files of `prepare`, with everything that the request says."""
    import torch

    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(output),
        learning_rate=config.learning_rate,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=math.ceil(config.warmup_ratio * total_steps),
        weight_decay=config.weight_decay,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # a loss that is not finite is what we want to see
        eval_strategy=config.eval_strategy if held_out is not None else "no",
        eval_steps=config.eval_steps,
        batch_eval_metrics=config.batch_eval_metrics,
        save_strategy="steps",
        save_steps=save_steps(config, total_steps),
        seed=config.seed,
        data_seed=config.seed,
        bf16=model.dtype == torch.bfloat16,
        use_cpu=not on_gpu,
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        max_length=None,  # prepare has cut the rows
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = JobTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_parquet(str(train), cache_dir=str(output / "cache")),
        eval_dataset=None if held_out is None else Dataset.from_parquet(str(held_out), cache_dir=str(output / "cache")),
    )
    trainer.hooks, trainer.wanted_metrics = hooks, list(config.evaluation_metrics)
    trainer.add_callback(_JobCallback(trainer))
    return trainer


def save_steps(config: TrainingConfig, total_steps: int) -> int:
    """Train_steps between checkpoints: as asked, or a tenth of the training, at most 100."""
    return config.save_steps or max(1, min(100, math.ceil(total_steps / 10)))
