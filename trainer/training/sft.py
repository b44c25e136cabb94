"""Supervised fine-tuning on tokens that are prepared already: transformers' Trainer with a loss head of our own and
exact evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import Trainer, TrainingArguments

from gemtune.jobs.record import EvaluationMetrics
from trainer.base_model.language_model import unwrapped
from trainer.model import gradient_checkpointing, row_attention
from trainer.model.hidden_states import predictions
from trainer.model.loss_head import cross_entropy_sum
from trainer.model.on_cpu.install import draws_alone
from trainer.model.on_cpu.row_parallel import SideBySide, parts_of, shares_of
from trainer.rows.encoder import UNTRAINED
from trainer.training import batches, metrics
from trainer.training.interface import Hooks, Setup
from trainer.training.job_trainer import arguments, attach, logged

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel


class SftTrainer(Trainer):
    """Trains on the mean over a train_step's trained tokens, evaluates by sums over tokens instead of means of batch
    means, and counts the tokens it trained on."""

    model: LanguageModel
    compute_dtype: torch.dtype
    hooks: Hooks
    wanted_metrics: list[str]
    side_by_side: SideBySide | None = None
    head_cost = 0.0
    tokens_seen = 0

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        self.tokens_seen += batches.tokens_in(cast(batches.Batch, inputs))
        return super().training_step(model, inputs, *args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[batches.Batch], num_batches: int, device: torch.device
    ) -> tuple[list[batches.Batch], int]:
        """The batches of a train_step, and how many tokens are trained in all of them together."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return samples, sum(int((sample["shift_labels"] != UNTRAINED).sum()) for sample in samples)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """num_items_in_batch: of `get_batch_samples`."""
        assert num_items_in_batch is not None
        if self.side_by_side is not None:
            batch = cast(batches.FlatBatch, inputs)
            parts = self._parts(model, batch, self.side_by_side.threads)
            if len(parts) > 1 or len(parts[0]) > 1:
                losses = [[partial(self._loss_sum, model, batches.some_rows(batch, share)) for share in part]
                          for part in parts]  # fmt: skip
                return self.side_by_side.sum(losses) / num_items_in_batch
        return self._loss_sum(model, cast(batches.Batch, inputs)) / num_items_in_batch

    def _parts(self, model: torch.nn.Module, batch: batches.FlatBatch, threads: int) -> list[list[list[int]]]:
        """The rows that go through the model at once, by parts and their shares."""
        width, lengths = unwrapped(model).config.get_text_config().hidden_size, batch["row_lengths"]
        trained = batches.trained_of_rows(batch)
        costs = [length + self.head_cost * count for length, count in zip(lengths, trained, strict=True)]
        parts = parts_of(lengths, costs, width=width, threads=threads)
        return [shares_of(part, lengths, trained, costs, width=width) for part in parts]

    def _loss_sum(self, model: torch.nn.Module, batch: batches.Batch) -> torch.Tensor:
        found = predictions(model, batch, self.compute_dtype)
        return cross_entropy_sum(found.hidden, found.head, found.targets, soft_cap=found.soft_cap)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        figures = self.figures()
        entry = logged(figures)
        self.log(entry)
        self.hooks.evaluated(self.state.global_step, figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
        return entry

    def figures(self) -> EvaluationMetrics:
        """Loss, accuracy and perplexity of the model as it is now, on the held-out rows."""
        return metrics.evaluate(self.model, self.get_eval_dataloader(), self.compute_dtype).figures(self.wanted_metrics)

    def unlogged(self) -> dict[str, list[float]]:
        """Nothing: transformers' own trainer logs the loss alone."""
        return {}


def make(setup: Setup) -> SftTrainer:
    """A trainer for token files of `prepare`, with everything that the request says."""
    loaded, config, sight = setup.loaded, setup.config, setup.sight
    by_rows = loaded.model.config._attn_implementation == row_attention.NAME
    collate = sight.collate if sight is not None else batches.flattened if by_rows else batches.padded
    rows = batches.TokenRows(setup.train, pack_into=setup.max_length if config.packing else None)
    # A vision tower's are many: of each picture 4,096 patches through 27 layers.
    tokens = rows.tokens_of_largest(config.batch_size)
    again = gradient_checkpointing.checkpointing(
        loaded.model, tokens, always=config.train_vision_tower, computed_in=loaded.compute_dtype
    )
    trainer = SftTrainer(
        model=loaded.model,
        args=TrainingArguments(**arguments(setup), **gradient_checkpointing.arguments(again)),
        data_collator=cast("Callable[[list[Any]], dict[str, Any]]", collate),
        train_dataset=rows,
        eval_dataset=None if setup.held_out is None else batches.TokenRows(setup.held_out),
    )
    if loaded.compute_dtype != torch.float32:
        leave_casting_to_autocast(loaded.model)
    trainer.model_accepts_loss_kwargs = True  # our loss is divided by the tokens of the whole train_step
    trainer.compute_dtype = loaded.compute_dtype
    # What is computed again has to draw what it drew, from the default generator.
    if by_rows and sight is None and again is None and draws_alone(loaded.model):
        trainer.side_by_side = SideBySide([weight for weight in loaded.model.parameters() if weight.requires_grad])
        trainer.head_cost = _head_cost(loaded.model)
    trainer.wanted_metrics = list(config.evaluation_metrics)
    attach(trainer, setup.hooks, config)
    return trainer


def _head_cost(model: LanguageModel) -> float:
    """What the head takes of a trained token, as a multiple of what the layers take of any token: it multiplies by its
    weights once, forward, and the layers by theirs a second time in backward."""
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    frozen = (weight for weight in model.parameters() if not weight.requires_grad)
    of_layers = sum(weight.numel() for weight in frozen if weight is not head and weight is not table)
    return float(head.numel() / (2 * of_layers))


def leave_casting_to_autocast(model: LanguageModel) -> None:
    """PEFT casts what goes into an adapter to its 32 bits, which autocast then casts back: two copies of every input,
    both kept for backward."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
