"""Attention for rows that are concatenated into one unpadded sequence.

Each row attends to itself only. transformers' models accept any registered attention function by its name. A mask over
the whole sequence would cost the square of all tokens; row by row the cost is the sum of the rows' squares, and no mask
is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from trainer.model.attention import flash_rows
from trainer.model.attention.choice import Layers

NAME = "gemtune_rows"


def register() -> None:
    """Register the function with transformers as `attn_implementation=NAME`.

    No mask function is registered for it, so transformers builds no mask.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    row_lengths: Sequence[int],
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of each row to itself, and no weights.

    query: (1, heads, tokens, width). key, value: (1, key heads, tokens, width). row_lengths: tokens of each row, in
    order; they add up to all tokens. Attention is causal within a row; with a sliding window a token sees that many
    tokens, itself included. softcap: scores become softcap * tanh(scores / softcap), as in Gemma 2. Returns (1, tokens,
    heads, width) in the type of query, or of autocast; the signature is that of transformers' attention functions. The
    implementation is the one that `attention.choice` has for the device.
    """
    if query.is_cuda and flash_rows.is_chosen(query, Layers(query.shape[-1], sliding_window, softcap, dropout)):
        return flash_rows.attend(query, key, value, row_lengths, scaling, sliding_window), None
    return attend_by_rows(query, key, value, row_lengths, scaling, sliding_window, softcap, dropout), None


def attend_by_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_lengths: Sequence[int],
    scaling: float,
    window: int | None = None,
    cap: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Return the attention of each row to itself, computed row by row.

    Everything is as in `attend`. Returns (1, tokens, heads, width).
    """
    groups = query.shape[1] // key.shape[1]
    rows = zip(*(tensor.split(list(row_lengths), dim=2) for tensor in (query, key, value)), strict=True)
    attended = [_attend_row(q, k, v, groups, scaling, window, cap, dropout) for q, k, v in rows]
    return torch.cat(attended, dim=2).transpose(1, 2)


def _attend_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    groups: int,
    scaling: float,
    window: int | None,
    softcap: float | None,
    dropout: float,
) -> torch.Tensor:
    """Return the attention of one row: (1, heads, tokens of the row, width).

    query, key and value: the row's part of those of `attend`. groups: heads per key head. window: None or the sliding
    window.
    """
    length = query.shape[2]
    key, value = (_repeat_heads(tensor, groups) for tensor in (key, value))
    within_window = window is None or length <= window
    if softcap is None:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if within_window else _visible(length, window, query.device),
            is_causal=within_window,
            scale=scaling,
            dropout_p=dropout,
        )
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~_visible(length, window, query.device), -torch.inf)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout)
    return torch.matmul(weights, value)


def _repeat_heads(tensor: torch.Tensor, groups: int) -> torch.Tensor:
    """Repeat key heads for their queries: (1, heads, tokens, width).

    A view for a single key head, as many Gemmas have.
    """
    return tensor.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2)


def _visible(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Return a boolean mask (length, length): whether query i sees key j."""
    visible = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return visible if window is None else visible.triu(1 - window)
