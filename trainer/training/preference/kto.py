"""Kahneman-Tversky optimization by TRL, on tokens of the prepare step.

The loss of KTO (Ethayarajh et al., arXiv:2402.01306) is TRL's; the loss head, the pairing of answers for the KL
divergence and the evaluation are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from torch.utils.data import RandomSampler
from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from gemtune.jobs.parts.metrics import EvaluationMetrics
from gemtune.request import rl_spec
from trainer.rows.prepared import LABEL, PICTURES
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

IDS, GAPS = "completion_ids", "completion_gaps"
# Columns with another row's answer, which stands behind the prompt to estimate the KL divergence. TRL names the first.
OTHER_IDS, OTHER_GAPS = "KL_completion_ids", "KL_completion_gaps"
Row = Mapping[str, Any]


class KtoTrainer(JudgedAnswersTrainer, KTOTrainer):
    """TRL's KTOTrainer with our loss head, shuffled rows and exact evaluation.

    Evaluation computes the loss over all held-out rows together, since the KL divergence is a mean over a batch.
    """

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> RandomSampler:
        """Return a sampler that shuffles the rows in each epoch.

        TRL takes rows in their order, because it pairs each prompt with an answer of the same batch before training. We
        pair them when a batch is made, so that batches can be mixed, as files are often sorted by label.
        """
        rows = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(rows, Dataset)
        return RandomSampler(rows)

    def evaluation_metrics(self) -> EvaluationMetrics:
        """Return the metrics of the current weights on all held-out rows.

        The model scores the rows batch by batch; loss and margin are computed from the scores of all rows as one batch,
        so they do not depend on batch_size. There is no margin if all rows have the same label.
        """
        was_training = self.model.training
        self.model.eval()
        metrics, labels = self._metrics["eval"], []
        self.scores = Scores(calls=4 if self.calculate_KL else 2, parts=1)
        try:
            for batch in self.get_eval_dataloader():
                labels.append(batch[LABEL].cpu())
                self.prediction_step(self.model, batch, prediction_loss_only=True)
            metrics.clear()
            loss = self._loss_of_all(self.scores, torch.cat(labels))
            margins = metrics["rewards/margins"]
            return EvaluationMetrics(eval_loss=loss, margin=margins[-1] if margins else None)
        finally:
            self.model.train(was_training)
            self.scores = None
            metrics.clear()

    def _loss_of_all(self, scores: Scores, labels: torch.Tensor) -> float:
        """Return TRL's loss of all rows as one batch, from their scores.

        Only masks, labels and scores matter: tokens are zeros, as no model reads them.
        """
        batch: dict[str, Any] = {LABEL: labels}
        # TRL scores the answers of other rows first, if at all.
        for call, prefix in enumerate(("KL_", "") if self.calculate_KL else ("",)):
            mask = scores.completion_mask(call)
            batch[f"{prefix}completion_mask"] = mask
            batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"] = (
                torch.zeros_like(mask),
                torch.ones_like(mask),
            )
        scores.replay(self.accelerator.device)
        loss, _, _ = self.prediction_step(self.model, batch, prediction_loss_only=True)
        return float(loss)


@dataclass(frozen=True, slots=True)
class Collator:
    """The data collator of KTO.

    collate: TRL's. with_kl: whether the loss needs answers of other rows. spare: rows of which one lends its answer to
    a batch of one row. pictures: only in vision jobs.
    """

    collate: DataCollatorForUnpairedPreference
    with_kl: bool
    spare: Sequence[Row]
    pictures: PictureCollator | None

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return TRL's batch, without the gaps in answers, and with pictures."""
        if self.with_kl and OTHER_IDS not in rows[0]:
            rows = with_others(rows, self.spare)
        batch: dict[str, Any] = self.collate(rows)
        _clear_gaps(batch["completion_mask"], rows, GAPS)
        if self.with_kl:
            _clear_gaps(batch["KL_completion_mask"], rows, OTHER_GAPS)
        if self.pictures is None:
            return batch
        inputs = self.pictures.inputs(batch["input_ids"], self.pictures.pixels([row[PICTURES] for row in rows]))
        if self.with_kl:
            types = (batch["KL_input_ids"] == self.pictures.soft_token).long()
            batch[f"KL_{self.pictures.format.type_ids}"] = types
        return {**batch, **inputs}


def with_others(rows: Sequence[Row], spare: Sequence[Row]) -> list[Row]:
    """Return rows with the answer of the row before.

    The first row gets the last one's, as with TRL. spare: for a single row, whose own answer would make the KL
    divergence its reward.
    """
    others = [rows[-1], *rows[:-1]]
    if len(rows) == 1:
        others = [next((row for row in spare if row[IDS] != rows[0][IDS]), rows[0])]
    return [{**row, OTHER_IDS: other[IDS], OTHER_GAPS: other[GAPS]} for row, other in zip(rows, others, strict=True)]


def _clear_gaps(mask: torch.Tensor, rows: Sequence[Row], column: str) -> None:
    """Take tokens that the assistant does not say out of a completion mask.

    mask: (rows, positions).
    """
    for index, row in enumerate(rows):
        for place in (len(row["prompt_ids"]) + gap for gap in row[column]):
            if place < mask.shape[1]:  # another row's answer is cut
                mask[index, place] = 0


def make(setup: Setup) -> KtoTrainer:
    """Return a trainer for the token files of the prepare step."""
    loaded, rl = setup.loaded, setup.config.rl_config
    assert isinstance(rl, rl_spec.KtoConfig)
    tokenizer = tokenizer_of(setup.base)
    train = Dataset(pq.read_table(setup.train))
    spare, with_kl = train.take(2).to_list(), rl.loss_type == "kto"
    trainer = KtoTrainer(
        model=loaded.model,
        args=KTOConfig(
            **trl_arguments(setup),
            beta=rl.beta,
            loss_type=rl.loss_type,
            desirable_weight=rl.desirable_weight,
            undesirable_weight=rl.undesirable_weight,
            max_length=None,
        ),
        data_collator=Collator(
            # Answers of other rows are longer than what their prompts leave room for.
            DataCollatorForUnpairedPreference(pad_token_id=tokenizer.pad_token_id, max_length=setup.max_length),
            with_kl,
            spare,
            setup.pictures,
        ),
        train_dataset=train,
        eval_dataset=None if setup.held_out is None else _held_out_rows(setup.held_out, spare),
        processing_class=tokenizer,
    )
    choose_reference(trainer, setup)
    trainer.compute_dtype = loaded.compute_dtype
    score_with_loss_head(trainer)
    attach_hooks(trainer, setup.hooks, setup.config)
    return trainer


def _held_out_rows(path: Path, spare: Sequence[Row]) -> Dataset:
    """Return held-out rows with other rows' answers, in whatever batches."""
    return Dataset.from_list(with_others(pq.read_table(path).to_pylist(), spare))
