"""Log-probabilities of all held-out rows, for losses defined over all rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import pad


class Scores:
    """Scores collected batch by batch, then returned as a single batch.

    TRL's losses sort the pairs of a batch (AOT), average over its tokens (SFT) or over its answers (KTO's KL
    divergence), so the mean of such losses over batches would depend on how many rows a batch has.

    calls: how often the loss of a batch asks for scores; the second half of these calls repeats the first with the
    reference model. parts: in how many parts a batch is split; DPO's has all chosen completions, then all rejected
    ones.
    """

    def __init__(self, *, calls: int, parts: int):
        self._calls, self._parts = calls, parts
        self._masks: list[torch.Tensor] = []
        self._scores: list[torch.Tensor] = []
        self._replayed: Iterator[torch.Tensor] | None = None

    @property
    def is_replayed(self) -> bool:
        """Return whether scores are returned, and no longer collected."""
        return self._replayed is not None

    def add(self, completion_mask: torch.Tensor, scores: torch.Tensor) -> None:
        """Add the scores of a call.

        completion_mask: (rows, positions). scores: (2, rows, positions - 1), log-probability and entropy of each
        completion token, 0 elsewhere.
        """
        self._masks.append(completion_mask.cpu())
        self._scores.append(scores.cpu())

    def completion_mask(self, call: int) -> torch.Tensor:
        """Return the completion masks of all rows in one of the calls."""
        return self._as_one(self._masks[call :: self._calls])

    def replay(self, device: torch.device) -> None:
        """Return all rows' scores from now on, as one batch, call by call.

        They are (2, all rows, positions - 1) in float64, on the device.
        """
        self._replayed = (
            self._as_one(self._scores[call :: self._calls]).to(device, torch.float64) for call in range(self._calls)
        )

    def next(self) -> torch.Tensor:
        """Return the scores of the next call."""
        assert self._replayed is not None, "scores are still collected"
        return next(self._replayed)

    def _as_one(self, batches: Sequence[torch.Tensor]) -> torch.Tensor:
        """Join batches (..., rows, positions) along their rows, part by part.

        Shorter batches are padded with 0.
        """
        width = max(batch.shape[-1] for batch in batches)
        padded = [pad(batch, (0, width - batch.shape[-1])).chunk(self._parts, dim=-2) for batch in batches]
        return torch.cat([parts[number] for number in range(self._parts) for parts in padded], dim=-2)
