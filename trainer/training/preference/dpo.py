"""Direct preference optimization by TRL, on tokens of the prepare step.

DPO (Rafailov et al., arXiv:2305.18290) and the losses derived from it are TRL's; the loss head and the evaluation are
ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from gemtune.jobs.parts.metrics import EvaluationMetrics
from gemtune.request import rl_spec
from trainer.rows.prepared import PICTURES
from trainer.training.interface import Setup
from trainer.training.job_trainer import attach_hooks
from trainer.training.picture_batches import PictureCollator
from trainer.training.preference.scores import Scores
from trainer.training.preference.scoring import score_with_loss_head
from trainer.training.preference.trainer import JudgedAnswersTrainer
from trainer.training.reinforcement import (
    choose_reference,
    tokenizer_of,
    trl_arguments,
)


class DpoTrainer(JudgedAnswersTrainer, DPOTrainer):
    """TRL's DPOTrainer with our loss head and exact evaluation.

    Evaluation computes the loss over all held-out pairs together: some losses depend on which pairs are in a batch.
    """

    def evaluation_metrics(self) -> EvaluationMetrics:
        """Return the metrics of the current weights on all held-out pairs.

        The model scores the pairs batch by batch; loss, margin and accuracy are computed from the scores of all pairs
        as one batch, so they do not depend on batch_size.
        """
        was_training = self.model.training
        self.model.eval()
        metrics = self._metrics["eval"]
        self.scores = Scores(calls=2, parts=2)
        try:
            for batch in self.get_eval_dataloader():
                self.prediction_step(self.model, batch, prediction_loss_only=True)
            loss = self._loss_of_all(self.scores)
            return EvaluationMetrics(
                eval_loss=loss,
                margin=metrics["rewards/margins"][-1],
                preference_accuracy=metrics["rewards/accuracies"][-1],
            )
        finally:
            self.model.train(was_training)
            self.scores = None
            metrics.clear()

    def _loss_of_all(self, scores: Scores) -> float:
        """Return TRL's loss of all pairs as one batch, from their scores.

        Only the completion mask and the scores matter: tokens are zeros, as no model reads them.
        """
        mask = scores.completion_mask(0)
        batch = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
        scores.replay(self.accelerator.device)
        loss, _, _ = self.prediction_step(self.model, batch, prediction_loss_only=True)
        return float(loss)


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
        data_collator=partial(_collate, collate, pictures),
        train_dataset=_pairs(setup.train),
        eval_dataset=None if setup.held_out is None else _pairs(setup.held_out),
        processing_class=tokenizer,
    )
    choose_reference(trainer, setup)
    trainer.compute_dtype = loaded.compute_dtype
    score_with_loss_head(trainer)
    attach_hooks(trainer, setup.hooks, setup.config)
    return trainer


def _pairs(path: Path) -> Dataset:
    """Read a token file of pairs as a dataset."""
    return Dataset(pq.read_table(path))


def _collate(
    collate: DataCollatorForPreference, pictures: PictureCollator | None, pairs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return TRL's batch of pairs, without gaps in answers, and with pictures.

    TRL puts all chosen completions first, then all rejected ones; both of a pair have the same pictures.
    """
    batch: dict[str, Any] = collate(pairs)
    for column, first in (("chosen_gaps", 0), ("rejected_gaps", len(pairs))):
        for row, pair in enumerate(pairs, first):
            for gap in pair[column]:
                batch["completion_mask"][row, len(pair["prompt_ids"]) + gap] = 0
    if pictures is None:
        return batch
    pixels = pictures.pixels([pair[PICTURES] for pair in pairs])
    return {**batch, **pictures.inputs(batch["input_ids"], [*pixels, *pixels])}
