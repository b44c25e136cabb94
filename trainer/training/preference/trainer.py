"""Shared parts of TRL's trainers that learn from judged answers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import Trainer

from gemtune.jobs.parts.metrics import EvaluationMetrics
from trainer.training.interface import Hooks
from trainer.training.preference.scores import Scores
from trainer.training.preference.scoring import NOT_COMPUTED
from trainer.training.reinforcement import log_evaluation

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel


class JudgedAnswersTrainer(Trainer):
    """Changes to DPOTrainer and KTOTrainer, before which it stands as a base.

    tokens_seen: see JobTrainer.
    """

    model: LanguageModel
    hooks: Hooks
    compute_dtype: torch.dtype
    tokens_seen = 0
    scores: Scores | None = None
    _metrics: dict[str, defaultdict[str, list[float]]]  # TRL's, by mode and name

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Return the dataset as it is: rows are tokenized already."""
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no model card for checkpoints; export writes one."""

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Count the tokens of a batch, then train on it."""
        self.tokens_seen += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """Return TRL's loss, without the metrics that need logits."""
        loss = super()._compute_loss(model, inputs, return_outputs)  # type: ignore[misc]  # TRL's
        for name in NOT_COMPUTED:
            self._metrics["train" if self.model.training else "eval"].pop(name, None)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, log the metrics and call the evaluation hooks."""
        return log_evaluation(self, self.evaluation_metrics())

    def evaluation_metrics(self) -> EvaluationMetrics:
        """Return the metrics of the current weights on all held-out rows."""
        raise NotImplementedError

    def unlogged_metrics(self) -> dict[str, list[float]]:
        """Return TRL's metrics since the last log entry."""
        return self._metrics["train"]
