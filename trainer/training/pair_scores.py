"""Log-probabilities of all held-out pairs, for losses defined over all pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.nn.functional import pad


class PairScores:
    """Scores collected batch by batch, then returned as a single batch.

    TRL's losses sort the pairs of a batch (AOT) or average over its tokens (SFT), so the mean of such losses over
    batches would depend on how many pairs a batch has.
    """

    def __init__(self) -> None:
        self._masks: list[torch.Tensor] = []
        self._scores: list[torch.Tensor] = []

    def add(self, completion_mask: torch.Tensor, scores: torch.Tensor) -> None:
        """Add the scores of a batch; the policy's first, then the reference's.

        completion_mask: (2 * pairs, positions), chosen completions first. scores: (2, 2 * pairs, positions - 1),
        log-probability and entropy of each completion token, 0 elsewhere.
        """
        if len(self._masks) * 2 == len(self._scores):
            self._masks.append(completion_mask.cpu())
        self._scores.append(scores.cpu())

    def completion_mask(self) -> torch.Tensor:
        """Return the completion masks of all pairs as one batch."""
        return _as_one(self._masks)

    def by_model(self, device: torch.device) -> Iterator[torch.Tensor]:
        """Yield all pairs' scores as one batch: the policy's, the reference's.

        They are (2, 2 * all pairs, positions - 1) in float64, on the device.
        """
        for model in (0, 1):
            yield _as_one(self._scores[model::2]).to(device, torch.float64)


def _as_one(batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Join batches (..., 2 * pairs, positions) along their pairs.

    Shorter batches are padded with 0. The result has all chosen completions first, then all rejected ones.
    """
    batches = list(batches)
    width = max(batch.shape[-1] for batch in batches)
    halves = [pad(batch, (0, width - batch.shape[-1])).chunk(2, dim=-2) for batch in batches]
    return torch.cat([chosen for chosen, _ in halves] + [rejected for _, rejected in halves], dim=-2)
