"""Direct preference optimization by TRL, on tokens of the prepare step.

DPO (Rafailov et al., arXiv:2305.18290) and the losses derived from it are TRL's; the loss head and the evaluation are
ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial, update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import FusedCausalLMOutput

from gemtune.jobs.record import EvaluationMetrics
from gemtune.request import rl_spec
from trainer.base_model.language_model import unwrap
from trainer.rows.encoder import UNTRAINED
from trainer.rows.prepared import PICTURES
from trainer.training.interface import Hooks, Setup
from trainer.training.job_trainer import attach_hooks
from trainer.training.pair_scores import PairScores
from trainer.training.picture_batches import PictureCollator
from trainer.training.reinforcement import (
    choose_reference,
    completion_log_probabilities,
    log_evaluation,
    tokenizer_of,
    trl_arguments,
)

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

# Metrics that TRL computes from logits, which the loss head does not store.
NOT_COMPUTED = ("logits/chosen", "logits/rejected", "mean_token_accuracy")


class DpoTrainer(DPOTrainer):
    """TRL's DPOTrainer with our loss head and exact evaluation.

    Evaluation computes the loss over all held-out pairs together: some losses depend on which pairs are in a batch.
    tokens_seen: see JobTrainer.
    """

    model: LanguageModel
    hooks: Hooks
    compute_dtype: torch.dtype
    tokens_seen = 0
    # During evaluation: first the collector of scores, then the scores to return instead of calling a model.
    _collected: PairScores | None = None
    _replayed: Iterator[torch.Tensor] | None = None

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Return the dataset as it is: rows are tokenized already."""
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card for checkpoints; export writes one."""

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Count the tokens of a batch, then train on it."""
        self.tokens_seen += int(inputs["attention_mask"].sum())
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call]
        return loss

    def score(self, inputs: Mapping[str, Any], completion_mask: torch.Tensor) -> torch.Tensor:
        """Return log-probability and entropy of each completion token.

        inputs: of the model. completion_mask: (rows, positions), 1 at completion tokens. Returns (2, rows, positions -
        1), 0 outside of completions, see `completion_log_probabilities`.
        """
        if self._replayed is not None:
            return next(self._replayed)
        scores = torch.stack(completion_log_probabilities(self.model, inputs, completion_mask, self.compute_dtype))
        if self._collected is not None:
            self._collected.add(completion_mask, scores)
        return scores

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """Return TRL's loss, without the metrics that need logits."""
        loss = super()._compute_loss(model, inputs, return_outputs)  # type: ignore[no-untyped-call]
        for name in NOT_COMPUTED:
            self._metrics["train" if self.model.training else "eval"].pop(name, None)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, log the metrics and call the evaluation hooks."""
        return log_evaluation(self, self.evaluation_metrics())

    def evaluation_metrics(self) -> EvaluationMetrics:
        """Return the metrics of the current weights on all held-out pairs.

        The model scores the pairs batch by batch; loss, margin and accuracy are computed from the scores of all pairs
        as one batch, so they do not depend on batch_size.
        """
        was_training = self.model.training
        self.model.eval()
        metrics = self._metrics["eval"]
        self._collected = PairScores()
        try:
            for batch in self.get_eval_dataloader():
                self.prediction_step(self.model, batch, prediction_loss_only=True)
            loss = self._loss_of_all(self._collected)
            return EvaluationMetrics(
                eval_loss=loss,
                margin=metrics["rewards/margins"][-1],
                preference_accuracy=metrics["rewards/accuracies"][-1],
            )
        finally:
            self.model.train(was_training)
            self._collected = None
            metrics.clear()

    def _loss_of_all(self, scores: PairScores) -> float:
        """Return TRL's loss of all pairs as one batch, from their scores.

        Only the completion mask and the scores matter: tokens are zeros, as no model reads them.
        """
        mask = scores.completion_mask()
        batch = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
        self._replayed = scores.by_model(self.accelerator.device)
        try:
            loss, _, _ = self.prediction_step(self.model, batch, prediction_loss_only=True)
        finally:
            self._replayed = None
        return float(loss)

    def unlogged_metrics(self) -> dict[str, list[float]]:
        """Return TRL's metrics since the last log entry."""
        return self._metrics["train"]


def make(setup: Setup) -> DpoTrainer:
    """Return a trainer for the token files of the prepare step."""
    loaded, rl, pictures = setup.loaded, setup.config.rl_config, setup.pictures
    assert isinstance(rl, rl_spec.DpoConfig)
    tokenizer = tokenizer_of(setup.base)
    collate = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
    trainer = DpoTrainer(
        model=loaded.model,
        args=DPOConfig(
            **trl_arguments(setup),
            beta=rl.beta,
            loss_type=[rl.loss_type],
            label_smoothing=rl.label_smoothing,
            max_length=None,
        ),
        data_collator=collate if pictures is None else partial(_collate_with_pictures, collate, pictures),
        train_dataset=_pairs(setup.train),
        eval_dataset=None if setup.held_out is None else _pairs(setup.held_out),
        processing_class=tokenizer,
    )
    choose_reference(trainer, setup)
    trainer.compute_dtype = loaded.compute_dtype
    score_with_loss_head(trainer)
    attach_hooks(trainer, setup.hooks, setup.config)
    return trainer


def score_with_loss_head(trainer: DpoTrainer) -> None:
    """Make the model answer TRL's calls for log-probabilities by our head.

    TRL calls the model with `fused_lm_head`. Other calls, and those for a mixture of experts' router logits, go to the
    original forward.
    """
    base: Any = unwrap(trainer.model)
    base.forward = update_wrapper(partial(_forward, trainer, base.forward), base.forward)


def _forward(
    trainer: DpoTrainer,
    original: Any,
    *args: Any,
    fused_lm_head: bool = False,
    labels: torch.Tensor | None = None,
    **inputs: Any,
) -> Any:
    """Replace the base model's forward; see `score_with_loss_head`.

    labels: (rows, positions), the tokens whose log-probabilities are needed, UNTRAINED elsewhere. Returns log_probs and
    entropy as (rows, positions - 1) in float32.
    """
    if not fused_lm_head or labels is None or inputs.get("output_router_logits"):
        return original(*args, fused_lm_head=fused_lm_head, labels=labels, **inputs)
    inputs = {name: value for name, value in inputs.items() if name != "use_cache"}
    logps, entropies = trainer.score(inputs, (labels != UNTRAINED).long())
    unknown = torch.zeros_like(logps)  # for NOT_COMPUTED
    return FusedCausalLMOutput(log_probs=logps, entropy=entropies, mean_logits=unknown, is_top1=unknown.bool())


def _pairs(path: Path) -> Dataset:
    """Read a token file of pairs as a dataset."""
    return Dataset(pq.read_table(path))


def _collate_with_pictures(
    collate: DataCollatorForPreference, pictures: PictureCollator, pairs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return TRL's batch of pairs, with pictures.

    TRL puts all chosen completions first, then all rejected ones; both of a pair have the same pictures.
    """
    batch: dict[str, Any] = collate(pairs)
    pixels = pictures.pixels([pair[PICTURES] for pair in pairs])
    return {**batch, **pictures.inputs(batch["input_ids"], [*pixels, *pixels])}
