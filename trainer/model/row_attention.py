"""Attention for rows that lie one after the other in a single sequence, without padding: each attends to itself only.

transformers' models take any function by name. A mask over the whole sequence would cost the square of all rows' tokens
together; row by row it costs the sum of their squares, and needs no mask at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "gemtune_rows"


def register() -> None:
    """Make `attn_implementation=NAME` known to transformers. No mask belongs to it, so none is made."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, *,
    row_lengths: Sequence[int], scaling: float, sliding_window: int | None = None, softcap: float | None = None,
    dropout: float = 0.0, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """query (1, heads, tokens, width), key and value (1, key heads, tokens, width) -> (1, tokens, heads, width).

    row_lengths: tokens of each row, in order; they add up to all tokens. Causal within a row; with a sliding window a
    token sees that many, itself included. softcap: scores are softcap * tanh(scores / softcap), as in Gemma 2.
    """
    groups = query.shape[1] // key.shape[1]
    rows = zip(*(tensor.split(list(row_lengths), dim=2) for tensor in (query, key, value)), strict=True)
    attended = [_row(q, k, v, groups, scaling, sliding_window, softcap, dropout) for q, k, v in rows]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def _row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, groups: int, scaling: float, window: int | None,
    softcap: float | None, dropout: float,
) -> torch.Tensor:  # fmt: skip
    length = query.shape[2]
    key, value = (_for_every_head(tensor, groups) for tensor in (key, value))
    fits = window is None or length <= window
    if softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=None if fits else _seen(length, window, query.device), is_causal=fits,
            scale=scaling, dropout_p=dropout,
        )  # fmt: skip
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~_seen(length, window, query.device), -torch.inf)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout)
    return torch.matmul(weights, value)


def _for_every_head(tensor: torch.Tensor, groups: int) -> torch.Tensor:
    """(1, key heads, tokens, width) -> (1, heads, tokens, width); of one key head, as many Gemmas have, a view."""
    return tensor.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)


def _seen(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Whether a position (down) sees another (across)."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)
