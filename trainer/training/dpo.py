"""Direct preference optimization (Rafailov et al., arXiv:2305.18290) by TRL, on tokens that are prepared already."""

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
from trainer.base_model.language_model import unwrapped
from trainer.rows.encoder import UNTRAINED
from trainer.rows.prepared import PICTURES
from trainer.training.interface import Hooks, Setup
from trainer.training.job_trainer import attach
from trainer.training.pair_scores import PairScores
from trainer.training.picture_batches import Sight
from trainer.training.reinforcement import log_figures, log_probabilities_in, settle, tokenizer_of, trl_arguments

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

# What TRL logs of the logits, which the loss head does not keep.
NOT_COMPUTED = ("logits/chosen", "logits/rejected", "mean_token_accuracy")


class DpoTrainer(DPOTrainer):
    """TRL's trainer with exact evaluation, that counts the tokens it trained on."""

    model: LanguageModel
    hooks: Hooks
    compute_dtype: torch.dtype
    tokens_seen = 0
    # While it evaluates: what is collected, and then what is asked for no model any more.
    _scores: PairScores | None = None
    _known: Iterator[torch.Tensor] | None = None

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Checkpoints have none."""

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        self.tokens_seen += int(inputs["attention_mask"].sum())
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call]
        return loss

    def score(self, inputs: Mapping[str, Any], completion_mask: torch.Tensor) -> torch.Tensor:
        """Return log-probability and entropy of each token of the answers, 0 elsewhere: (2, rows, positions - 1).

        inputs: what the model takes. completion_mask: (rows, positions), 1 at the answers' tokens."""
        if self._known is not None:
            return next(self._known)
        scores = torch.stack(log_probabilities_in(self.model, inputs, completion_mask, self.compute_dtype))
        if self._scores is not None:
            self._scores.add(completion_mask, scores)
        return scores

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        loss = super()._compute_loss(model, inputs, return_outputs)  # type: ignore[no-untyped-call]
        for name in NOT_COMPUTED:
            self._metrics["train" if self.model.training else "eval"].pop(name, None)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        return log_figures(self, self.figures())

    def figures(self) -> EvaluationMetrics:
        """Return the figures of the model as it is now on all held-out pairs together, however they are batched."""
        was_training = self.model.training
        self.model.eval()
        found = self._metrics["eval"]
        self._scores = PairScores()
        try:
            for batch in self.get_eval_dataloader():
                self.prediction_step(self.model, batch, prediction_loss_only=True)
            loss = self._loss_of_all(self._scores)
            return EvaluationMetrics(
                eval_loss=loss, margin=found["rewards/margins"][-1], preference_accuracy=found["rewards/accuracies"][-1]
            )
        finally:
            self.model.train(was_training)
            self._scores = None
            found.clear()

    def _loss_of_all(self, scores: PairScores) -> float:
        """TRL's loss of one batch of all pairs, whose log-probabilities are known."""
        mask = scores.completion_mask()
        batch = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
        self._known = scores.by_model(self.accelerator.device)
        try:
            loss, _, _ = self.prediction_step(self.model, batch, prediction_loss_only=True)
        finally:
            self._known = None
        return float(loss)

    def unlogged(self) -> dict[str, list[float]]:
        return self._metrics["train"]


def make(setup: Setup) -> DpoTrainer:
    """A trainer for token files of `prepare`, with everything that the request says."""
    loaded, rl, sight = setup.loaded, setup.config.rl_config, setup.sight
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
        data_collator=collate if sight is None else partial(_shown, collate, sight),
        train_dataset=_pairs(setup.train),
        eval_dataset=None if setup.held_out is None else _pairs(setup.held_out),
        processing_class=tokenizer,
    )
    settle(trainer, loaded)
    score_by_trainer(trainer)
    attach(trainer, setup.hooks, setup.config)
    return trainer


def score_by_trainer(trainer: DpoTrainer) -> None:
    """Let a trainer score answers by the loss head of supervised training, instead of by the one that TRL has added to
    the model. Other calls of the model, and those that ask a mixture of experts for its balance too, are answered as
    before."""
    base: Any = unwrapped(trainer.model)
    base.forward = update_wrapper(partial(_forward, trainer, base.forward), base.forward)


def _forward(
    trainer: DpoTrainer, original: Any, *args: Any, fused_lm_head: bool = False, labels: torch.Tensor | None = None,
    **inputs: Any,
) -> Any:  # fmt: skip
    """labels: (rows, positions), the tokens whose log-probabilities are wanted, UNTRAINED elsewhere."""
    if not fused_lm_head or labels is None or inputs.get("output_router_logits"):
        return original(*args, fused_lm_head=fused_lm_head, labels=labels, **inputs)
    inputs = {name: value for name, value in inputs.items() if name != "use_cache"}
    logs, entropies = trainer.score(inputs, (labels != UNTRAINED).long())
    unknown = torch.zeros_like(logs)  # see NOT_COMPUTED
    return FusedCausalLMOutput(log_probs=logs, entropy=entropies, mean_logits=unknown, is_top1=unknown.bool())


def _pairs(path: Path) -> Dataset:
    return Dataset(pq.read_table(path))


def _shown(collate: DataCollatorForPreference, sight: Sight, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of pairs with their pictures: the chosen ones first, then the rejected ones, and each shows its own."""
    batch: dict[str, Any] = collate(pairs)
    pixels = sight.pixels([pair[PICTURES] for pair in pairs])
    return {**batch, **sight.inputs(batch["input_ids"], [*pixels, *pixels])}
