"""Metrics of a model on held-out rows: exact sums over tokens, divided once.

Loss is the mean negative log-likelihood in nats of each trained token given those before it, accuracy the fraction of
trained tokens that are the model's first choice, and perplexity exp(loss) (Jurafsky & Martin, Speech and Language
Processing, 3.3; there 2 to the power of the loss in bits, which is the same).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gemtune.jobs.parts.metrics import EvaluationMetrics

if TYPE_CHECKING:
    import torch

    from trainer.training.batches import Batch

# Positions, and rows of the head, whose logits exist at once. On a CPU they fit into the cache; on a GPU, where every
# call costs time, they take 64 MB.
POSITIONS, BLOCK, GPU_BLOCK = 256, 2**12, 2**16
# On a CPU the numbers of tokens and positions are multiples of this: oneDNN compiles and caches code for every new
# shape, so with few shapes memory does not grow with the number of batches.
SHAPE_MULTIPLE = 64


@dataclass
class Sums:
    """Sums over tokens; those of two batches can be added.

    loss: in nats. correct: tokens that are the model's first choice.
    """

    loss: float = 0.0
    correct: int = 0
    tokens: int = 0

    def evaluation_metrics(self, names: Iterable[str]) -> EvaluationMetrics:
        """Return the loss, and those of accuracy and perplexity in `names`.

        Raises ValueError if there are no tokens.
        """
        if self.tokens == 0:
            raise ValueError("no token was evaluated")
        loss = self.loss / self.tokens
        return EvaluationMetrics(
            eval_loss=loss,
            accuracy=self.correct / self.tokens if "accuracy" in names else None,
            perplexity=_finite_exp(loss) if "perplexity" in names else None,
        )


def _finite_exp(loss: float) -> float:
    """Return exp(loss), at most exp(700).

    JSON has no infinity, which a diverged model's perplexity would be.
    """
    return math.exp(min(loss, 700.0))


def evaluate(model: torch.nn.Module, batches: Iterable[Batch], dtype: torch.dtype) -> Sums:
    """Return the sums over batches of `trainer.training.batches`.

    dtype: the type to compute in, whatever type the weights have.
    """
    import torch

    was_training = model.training
    model.eval()
    sums = Sums()
    try:
        with torch.no_grad():
            for batch in batches:
                _add(sums, model, batch, dtype)
    finally:
        model.train(was_training)
    return sums


def _add(sums: Sums, model: torch.nn.Module, batch: Batch, dtype: torch.dtype) -> None:
    """Add a batch's trained positions to the sums, a few at a time."""
    from trainer.model.hidden_states import head_inputs
    from trainer.training.batches import fill_to_multiple

    # Only 16-bit products use oneDNN.
    if "row_lengths" in batch and batch["input_ids"].device.type == "cpu" and dtype.itemsize == 2:
        batch = fill_to_multiple(batch, SHAPE_MULTIPLE)
    inputs = head_inputs(model, batch, dtype)
    for hidden, targets in zip(inputs.hidden.split(POSITIONS), inputs.targets.split(POSITIONS), strict=True):
        losses, is_top = _losses_and_hits(hidden, targets, inputs.head, inputs.soft_cap)
        sums.loss += losses.double().sum().item()
        sums.correct += int(is_top.sum().item())
        sums.tokens += len(targets)


def _losses_and_hits(
    hidden: torch.Tensor, targets: torch.Tensor, head: torch.Tensor, soft_cap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each position's loss, and whether its target is the top choice.

    hidden: (positions, width). targets: (positions,), int64. head: (vocabulary, width). Both results are (positions,),
    in float32 and bool. One pass over blocks of the vocabulary with an online softmax, as in `loss_head`, but relative
    to each block's maximum, since the top choice is needed anyway.
    """
    import torch
    from torch.nn.functional import pad

    positions, padding = len(targets), -len(targets) % SHAPE_MULTIPLE
    hidden, targets = pad(hidden, (0, 0, 0, padding)), pad(targets, (0, padding))
    log_sum = torch.full(targets.shape, -torch.inf, device=hidden.device)
    highest, target_logits, choice = log_sum.clone(), log_sum.clone(), torch.zeros_like(targets)
    block = BLOCK if hidden.device.type == "cpu" else GPU_BLOCK
    for start in range(0, len(head), block):
        rows = head[start : start + block].to(hidden.dtype)
        logits = (hidden @ rows.T).float()
        if soft_cap is not None:
            logits.div_(soft_cap).tanh_().mul_(soft_cap)
        indices = (targets - start).clamp(0, len(rows) - 1)
        target_logits = torch.where(
            indices + start == targets, logits.gather(1, indices.unsqueeze(1)).squeeze(1), target_logits
        )
        block_highest, block_choice = logits.max(1)
        choice = torch.where(block_highest > highest, block_choice + start, choice)
        highest = torch.maximum(highest, block_highest)
        block_log_sum = logits.sub_(block_highest.unsqueeze(1)).exp_().sum(1)
        log_sum = torch.logaddexp(log_sum, block_log_sum.log_().add_(block_highest))
    return (log_sum - target_logits)[:positions], (choice == targets)[:positions]
