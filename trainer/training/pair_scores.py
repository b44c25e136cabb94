"""Log-probabilities of all held-out pairs: a loss over pairs may be defined by all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.nn.functional import pad


class PairScores:
    """Collected batch by batch, and then one batch of all pairs.

    TRL's losses sort the pairs of a batch (AOT) or take the mean over its tokens (SFT): the mean of such losses over
    batches depends on how many pairs a batch has.
    """

    def __init__(self) -> None:
        self._masks: list[torch.Tensor] = []
        self._scores: list[torch.Tensor] = []

    def add(self, completion_mask: torch.Tensor, scores: torch.Tensor) -> None:
        """Keep what a model says of a batch, the policy first and then the reference.

        completion_mask: (2 * pairs, positions), those chosen first. scores: (2, 2 * pairs, positions - 1),
        log-probability and entropy of each token of an answer, 0 elsewhere.
        """
        if len(self._masks) * 2 == len(self._scores):
            self._masks.append(completion_mask.cpu())
        self._scores.append(scores.cpu())

    def completion_mask(self) -> torch.Tensor:
        """Return that of all pairs as one batch."""
        return _as_one(self._masks)

    def by_model(self, device: torch.device) -> Iterator[torch.Tensor]:
        """Yield the scores of all pairs as one batch, in float64: the policy's, and then the reference's."""
        for model in (0, 1):
            yield _as_one(self._scores[model::2]).to(device, torch.float64)


def _as_one(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Join batches (…, 2 * pairs, positions) along their pairs: all that are chosen, then all that are rejected."""
    batches = list(batches)
    width = max(batch.shape[-1] for batch in batches)
    halves = [pad(batch, (0, width - batch.shape[-1])).chunk(2, dim=-2) for batch in batches]
    return torch.cat([chosen for chosen, _ in halves] + [rejected for _, rejected in halves], dim=-2)
