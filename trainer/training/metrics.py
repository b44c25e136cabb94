"""Figures of a model on held-out rows, exact: sums over tokens, batch by batch, divided once at the end.

Loss is the mean negative log-likelihood in nats of each trained token given those before it, accuracy how often it is
the model's first choice, and perplexity exp(loss) (Jurafsky & Martin, Speech and Language Processing, 3.3; there 2 to
the loss in bits, which is the same number).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gemtune.jobs.record import EvaluationMetrics

if TYPE_CHECKING:
    import torch

    from trainer.training.batches import Batch

# Logits in memory at once: of so many positions, for so many tokens of the vocabulary. A CPU has them in its cache; a
# GPU waits for every call, and has them in 64 MB.
POSITIONS, BLOCK, BLOCK_OF_GPU = 256, 2**12, 2**16
# Numbers of tokens and of positions are multiples of this on a CPU, where oneDNN writes code for every shape of a
# product that it has not met: with few shapes, many batches take no more memory than some.
STEP = 64


@dataclass
class Sums:
    """Sums over tokens; those of two batches added up are those of both."""

    loss: float = 0.0
    correct: int = 0
    tokens: int = 0

    def figures(self, wanted: Iterable[str]) -> EvaluationMetrics:
        """The loss, and of accuracy and perplexity those that are wanted. Raises ValueError without tokens."""
        if self.tokens == 0:
            raise ValueError("no token was evaluated")
        loss = self.loss / self.tokens
        return EvaluationMetrics(
            eval_loss=loss,
            accuracy=self.correct / self.tokens if "accuracy" in wanted else None,
            perplexity=_exp(loss) if "perplexity" in wanted else None,
        )


def _exp(loss: float) -> float:
    """exp, where a diverged model's figure is too large to say: the largest number that JSON can carry."""
    return math.exp(min(loss, 700.0))


def evaluate(model: torch.nn.Module, batches: Iterable[Batch], dtype: torch.dtype) -> Sums:
    """Sums over batches of `trainer.training.batches`, with products made in `dtype`."""
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
    """Of the positions that predict a trained token, some at a time."""
    from trainer.model.hidden_states import predictions
    from trainer.training.batches import filled_up

    # Without 16 bits products are not oneDNN's.
    if "row_lengths" in batch and batch["input_ids"].device.type == "cpu" and dtype.itemsize == 2:
        batch = filled_up(batch, STEP)
    found = predictions(model, batch, dtype)
    for hidden, targets in zip(found.hidden.split(POSITIONS), found.targets.split(POSITIONS), strict=True):
        losses, is_first = _looked_up(hidden, targets, found.head, found.soft_cap)
        sums.loss += losses.double().sum().item()
        sums.correct += int(is_first.sum().item())
        sums.tokens += len(targets)


def _looked_up(
    hidden: torch.Tensor, targets: torch.Tensor, head: torch.Tensor, soft_cap: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each position in float32, and whether its target is the model's first choice: both (positions,).

    One pass over blocks of the vocabulary, as in `loss_head`, but relative to the highest logit, which is asked for.
    """
    import torch
    from torch.nn.functional import pad

    positions, more = len(targets), -len(targets) % STEP
    hidden, targets = pad(hidden, (0, 0, 0, more)), pad(targets, (0, more))
    log_sum = torch.full(targets.shape, -torch.inf, device=hidden.device)
    highest, of_target, choice = log_sum.clone(), log_sum.clone(), torch.zeros_like(targets)
    block = BLOCK if hidden.device.type == "cpu" else BLOCK_OF_GPU
    for start in range(0, len(head), block):
        rows = head[start : start + block].to(hidden.dtype)
        logits = (hidden @ rows.T).float()
        if soft_cap is not None:
            logits.div_(soft_cap).tanh_().mul_(soft_cap)
        own = (targets - start).clamp(0, len(rows) - 1)
        of_target = torch.where(own + start == targets, logits.gather(1, own.unsqueeze(1)).squeeze(1), of_target)
        highest_here, choice_here = logits.max(1)
        choice = torch.where(highest_here > highest, choice_here + start, choice)
        highest = torch.maximum(highest, highest_here)
        sum_here = logits.sub_(highest_here.unsqueeze(1)).exp_().sum(1)
        log_sum = torch.logaddexp(log_sum, sum_here.log_().add_(highest_here))
    return (log_sum - of_target)[:positions], (choice == targets)[:positions]
