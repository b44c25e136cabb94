"""Supervised fine-tuning on tokens that the prepare step wrote.

transformers' Trainer, with our loss head and exact evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import Trainer, TrainingArguments

from gemtune.jobs.parts.metrics import EvaluationMetrics
from trainer.base_model.language_model import is_wrapped, unwrap
from trainer.model import gradient_checkpointing, row_attention
from trainer.model.hidden_states import head_inputs
from trainer.model.loss_head import cross_entropy_sum
from trainer.model.on_cpu.install import draws_all_random_numbers
from trainer.model.on_cpu.row_parallel import RowParallel, split_into_chunks, split_into_parts
from trainer.rows.encoded import UNTRAINED
from trainer.training import batches, metrics
from trainer.training.interface import Hooks, Setup
from trainer.training.job_trainer import arguments, attach_hooks, log_entry

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

# Most parts of a batch if rows of the embedding are trained: the backward pass of each part has a gradient of the whole
# embedding's size. The estimates of memory (`gemtune.machines.memory`) have room for those of two parts.
PARTS_WITH_NEW_TOKENS = 2


class SftTrainer(Trainer):
    """transformers' Trainer with our loss, evaluation and row parallelism.

    The loss is the mean over all trained tokens of a train_step, not over its batches. Evaluation divides sums over
    tokens, where the Trainer averages the means of batches. row_parallel: splits batches over the cores of a CPU; None
    elsewhere. most_parts: parts of a batch; None for as many as cores. head_cost: see `_head_cost`. tokens_seen: see
    JobTrainer.
    """

    model: LanguageModel
    compute_dtype: torch.dtype
    hooks: Hooks
    metric_names: list[str]
    row_parallel: RowParallel | None = None
    most_parts: int | None = None
    head_cost = 0.0
    tokens_seen = 0

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Count the tokens of a batch, then train on it."""
        self.tokens_seen += batches.count_tokens(cast(batches.Batch, inputs))
        return super().training_step(model, inputs, *args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[batches.Batch], num_batches: int, device: torch.device
    ) -> tuple[list[batches.Batch], int]:
        """Return the batches of a train_step, and the tokens they train on.

        The Trainer would count labels that are not -100 in `labels`; ours are in `shift_labels`.
        """
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return samples, sum(int((sample["shift_labels"] != UNTRAINED).sum()) for sample in samples)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return a batch's loss, in nats: its part of the train_step's mean.

        num_items_in_batch: trained tokens of the whole train_step, from `get_batch_samples`.
        """
        assert num_items_in_batch is not None
        if self.row_parallel is not None:
            batch = cast(batches.FlatBatch, inputs)
            parts = self._parts(model, batch, self.row_parallel.threads)
            if len(parts) > 1 or len(parts[0]) > 1:
                losses = [
                    [partial(self._loss_sum, model, batches.select_rows(batch, chunk)) for chunk in part]
                    for part in parts
                ]
                return self.row_parallel.sum(losses) / num_items_in_batch
        return self._loss_sum(model, cast(batches.Batch, inputs)) / num_items_in_batch

    def _parts(self, model: torch.nn.Module, batch: batches.FlatBatch, threads: int) -> list[list[list[int]]]:
        """Return the row indices of a batch, per part and per chunk of a part."""
        width, lengths = unwrap(model).config.get_text_config().hidden_size, batch["row_lengths"]
        trained = batches.trained_tokens_per_row(batch)
        costs = [length + self.head_cost * count for length, count in zip(lengths, trained, strict=True)]
        parts = split_into_parts(lengths, costs, width=width, threads=threads, most=self.most_parts)
        return [split_into_chunks(part, lengths, trained, costs, width=width) for part in parts]

    def _loss_sum(self, model: torch.nn.Module, batch: batches.Batch) -> torch.Tensor:
        """Return the sum of the losses of a batch's trained tokens, a scalar."""
        inputs = head_inputs(model, batch, self.compute_dtype)
        return cross_entropy_sum(inputs.hidden, inputs.head, inputs.targets, soft_cap=inputs.soft_cap, rows=inputs.rows)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, log the metrics and call the evaluation hooks."""
        evaluation = self.evaluation_metrics()
        entry = log_entry(evaluation)
        self.log(entry)
        self.hooks.evaluated(self.state.global_step, evaluation)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
        return entry

    def evaluation_metrics(self) -> EvaluationMetrics:
        """Return loss, accuracy and perplexity on the held-out rows."""
        return metrics.evaluate(self.model, self.get_eval_dataloader(), self.compute_dtype).evaluation_metrics(
            self.metric_names
        )

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Save the weights of a checkpoint.

        All weights have the names of the model's modules, by which the Trainer loads them to resume. transformers would
        write those of the Hub, which differ for Gemma 3 with vision.
        """
        if is_wrapped(self.model):
            super()._save(output_dir, state_dict)
        else:
            folder = str(self.args.output_dir if output_dir is None else output_dir)
            self.model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that lacks a trained weight.

        transformers only warns, and the training would go on from the base model's. Raises RuntimeError.
        """
        trained = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        missing = sorted(trained.intersection(load_result.missing_keys))
        if missing:
            raise RuntimeError(f"the checkpoint lacks {len(missing)} trained weights, such as {missing[0]}")
        super()._issue_warnings_after_load(load_result)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Hand over the weights of a checkpoint, then save the other states."""
        self.hooks.saved_weights(self.state.global_step, Path(output_dir))
        super()._save_optimizer_and_scheduler(output_dir)

    def unlogged_metrics(self) -> dict[str, list[float]]:
        """Return an empty mapping: this trainer logs the loss only."""
        return {}


def make(setup: Setup) -> SftTrainer:
    """Return a trainer for the token files of the prepare step."""
    loaded, config, media = setup.loaded, setup.config, setup.pictures or setup.audio
    is_flat = loaded.model.config._attn_implementation == row_attention.NAME
    collate = media.collate if media is not None else batches.flatten_rows if is_flat else batches.pad_rows
    rows = batches.TokenRows(setup.train, pack_into=setup.max_length if config.packing else None)
    tokens = rows.max_batch_tokens(setup.rows_per_batch)
    # A trained vision tower keeps many activations (4,096 patches per image through 27 layers): always checkpoint it.
    checkpointing_kwargs = gradient_checkpointing.checkpointing_kwargs(
        loaded.model, tokens, always=config.train_vision_tower, compute_dtype=loaded.compute_dtype
    )
    trainer = SftTrainer(
        model=loaded.model,
        args=TrainingArguments(**arguments(setup), **gradient_checkpointing.trainer_arguments(checkpointing_kwargs)),
        data_collator=cast("Callable[[list[Any]], dict[str, Any]]", collate),
        train_dataset=rows,
        eval_dataset=None if setup.held_out is None else batches.TokenRows(setup.held_out),
    )
    if loaded.compute_dtype != torch.float32:
        disable_input_casts(loaded.model)
    trainer.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the whole train_step
    trainer.compute_dtype = loaded.compute_dtype
    # Recomputing layers must repeat their random draws, which works with the default generator only.
    # An embedding that is trained whole has a gradient of its size, which not every thread can have.
    can_split = draws_all_random_numbers(loaded.model) and not config.train_embeddings
    if is_flat and media is None and checkpointing_kwargs is None and can_split:
        trainer.row_parallel = RowParallel([weight for weight in loaded.model.parameters() if weight.requires_grad])
        trainer.head_cost = _head_cost(loaded.model)
        trainer.most_parts = None if config.new_tokens is None else PARTS_WITH_NEW_TOKENS
    trainer.metric_names = list(config.evaluation_metrics)
    attach_hooks(trainer, setup.hooks, config)
    return trainer


def _head_cost(model: LanguageModel) -> float:
    """Return the head's cost per trained token, relative to the layers'.

    Counted in products with weights: the head takes one per trained token, for the logits, since most columns are left
    out of the second one; the frozen layers take two, forward and for the gradient of their input.
    """
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    frozen = (weight for weight in model.parameters() if not weight.requires_grad)
    # PEFT returns a new tensor for a head with trained rows, so the two matrices are known by their shapes.
    of_layers = sum(weight.numel() for weight in frozen if weight.shape not in (head.shape, table.shape))
    return float(head.numel() / (2 * of_layers))


def disable_input_casts(model: LanguageModel) -> None:
    """Stop PEFT from casting an adapter's inputs to its 32 bits.

    autocast would cast them back to 16 bits: two copies of every input, both saved for backward.
    """
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
