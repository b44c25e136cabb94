"""Figures of a model on held-out rows, exact: sums over tokens, batch by batch, divided once at the end.

Loss is the mean negative log-likelihood in nats of each trained token given those before it, accuracy how often it is
the model's first choice, and perplexity exp(loss) (Jurafsky & Martin, Speech and Language Processing, 3.3; there 2 to
the loss in bits, which is the same number).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gemtune.job import Figures

if TYPE_CHECKING:
    import torch

# Positions whose logits are in memory at once: with Gemma's 262,144 tokens, 256 of them take 268 MB in float32.
POSITIONS = 256


@dataclass
class Sums:
    """Sums over tokens; those of two batches added up are those of both."""

    loss: float = 0.0
    correct: int = 0
    tokens: int = 0

    def figures(self, wanted: Iterable[str]) -> Figures:
        """The loss, and of accuracy and perplexity those that are wanted. Raises ValueError without tokens."""
        if self.tokens == 0:
            raise ValueError("no token was evaluated")
        loss = self.loss / self.tokens
        return Figures(
            eval_loss=loss,
            accuracy=self.correct / self.tokens if "accuracy" in wanted else None,
            perplexity=_exp(loss) if "perplexity" in wanted else None,
        )


def _exp(loss: float) -> float:
    """exp, where a diverged model's figure is too large to say: the largest number that JSON can carry."""
    return math.exp(min(loss, 700.0))


def evaluate(model: Any, batches: Iterable[Mapping[str, Any]], dtype: torch.dtype) -> Sums:
    """Sums over batches of `trainer.batches`, with products made in `dtype`."""
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


def _add(sums: Sums, model: Any, batch: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Of the positions that predict a trained token the logits, some positions at a time."""
    import torch

    from trainer.predictions import predictions

    found = predictions(model, batch, dtype)
    head = found.head.to(dtype)
    for start in range(0, len(found.targets), POSITIONS):
        logits = (found.hidden[start : start + POSITIONS] @ head.T).float()
        if found.soft_cap is not None:
            logits = found.soft_cap * torch.tanh(logits / found.soft_cap)
        targets = found.targets[start : start + POSITIONS]
        sums.loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").double().item()
        sums.correct += int((logits.argmax(-1) == targets).sum().item())
        sums.tokens += len(targets)
