"""Direct preference optimization (Rafailov et al., arXiv:2305.18290) by TRL, on tokens that are prepared already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from gemtune.jobs.record import Figures
from gemtune.request import rl_spec
from trainer.rows.prepared import PICTURES
from trainer.training.interface import Hooks, Setup
from trainer.training.job_trainer import attach
from trainer.training.pair_scores import PairScores
from trainer.training.picture_batches import Sight
from trainer.training.reinforcement import log_figures, log_probabilities_in, settle, tokenizer_of, trl_arguments

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel


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

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        model_kwargs: Mapping[str, Any],
        input_ids: torch.Tensor,
        completion_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        if self._known is not None:
            logs, entropies = next(self._known)
            return logs, entropies, None
        inputs = {name: value for name, value in model_kwargs.items() if name != "use_cache"}
        logs, entropies = log_probabilities_in(model, inputs, completion_mask, self.compute_dtype)
        if self._scores is not None:
            self._scores.add(completion_mask, torch.stack((logs, entropies)))
        return logs, entropies, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        return log_figures(self, self.figures())

    def figures(self) -> Figures:
        """Return the figures of the model as it is now on all held-out pairs together, however they are batched."""
        was_training = self.model.training
        self.model.eval()
        found = self._metrics["eval"]
        self._scores = PairScores()
        try:
            for batch in self.get_eval_dataloader():
                self.prediction_step(self.model, batch, prediction_loss_only=True)
            loss = self._loss_of_all(self._scores)
            return Figures(
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
    attach(trainer, setup.hooks, setup.config)
    return trainer


def _pairs(path: Path) -> Dataset:
    return Dataset(pq.read_table(path))


def _shown(collate: DataCollatorForPreference, sight: Sight, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of pairs with their pictures: the chosen ones first, then the rejected ones, and each shows its own."""
    batch: dict[str, Any] = collate(pairs)
    pixels = sight.pixels([pair[PICTURES] for pair in pairs])
    return {**batch, **sight.inputs(batch["input_ids"], [*pixels, *pixels])}
