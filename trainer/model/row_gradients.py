"""Gradient of a few trained rows of a head that is frozen otherwise.

A trained head has a gradient of its own size, which takes a second pass over all of its rows. Here only the rows of new
tokens are trained, so the loss head treats the whole head as frozen, and the gradient of these rows is added. With the
names of `loss_head`, it is

    d loss / dw_j = (p_j - [j = y]) cap'_j h / T
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """Rows of a head. ids: (rows,), int64. weights: (rows, width), trained."""

    ids: torch.Tensor
    weights: torch.Tensor


def head_of(causal_model: Any) -> tuple[torch.Tensor, TrainedRows | None]:
    """Return the weight of a model's head, and its rows that are trained.

    PEFT keeps such rows apart, and returns the head as a new tensor that contains them.
    """
    layer = causal_model.get_output_embeddings()
    weight: torch.Tensor = layer.weight
    adapter = getattr(layer, "token_adapter", None)
    if adapter is None or not weight.requires_grad:
        return weight, None
    (active,) = adapter.active_adapters
    ids = torch.tensor(adapter.token_indices[active], device=weight.device)
    return weight.detach(), TrainedRows(ids, adapter.trainable_tokens_delta[active])


def with_row_gradients(
    losses: torch.Tensor,
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    rows: TrainedRows,
    *,
    soft_cap: float | None,
    temperature: float,
) -> torch.Tensor:
    """Return the losses, also differentiable in some rows of the head.

    losses: (positions,), of `loss_head` with a frozen head (vocabulary, width). hidden: (positions, width). targets:
    (positions,), int64. What is added is 0, and its gradient is that of the module's docstring.
    """
    states = hidden.detach().to(losses.dtype)
    weights = rows.weights.to(head.dtype).to(losses.dtype)
    logits = _capped(states @ weights.T, soft_cap) / temperature
    with torch.no_grad():
        of_targets = _capped((states * head[targets].to(losses.dtype)).sum(1), soft_cap) / temperature
        shares = torch.exp(logits - (losses + of_targets).unsqueeze(1))  # losses + of_targets is log(sum_j exp(z_j))
        shares -= (targets.unsqueeze(1) == rows.ids).to(shares.dtype)
    added = (shares * logits).sum(1)
    return losses + (added - added.detach())


def _capped(logits: torch.Tensor, soft_cap: float | None) -> torch.Tensor:
    return logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
