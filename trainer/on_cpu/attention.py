"""Causal attention within rows that lie one after the other, for heads that share their keys.

Block by block as in Dao et al., FlashAttention (arXiv:2205.14135), but with what a CPU multiplies fast: the queries of
all heads that share a key are one matrix, and no key after a block's last token is looked at. Scores are summed and
their softmax taken in float32; kept for backward are the result and one number a query and token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trainer.on_cpu import again

# Tokens whose queries are one matrix; more of them look at more keys in vain, fewer make thinner products.
BLOCK = 128
# oneDNN writes code for every shape it has not met, which takes as long as the product of a short row, and keeps it. So
# there are few shapes: queries and keys are multiples of these, with some of the row after it, that count for nothing.
QUERY_STEP, KEY_STEP = 32, 64


def attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row_lengths: Sequence[int], scale: float
) -> torch.Tensor:
    """query (tokens, heads, width), key and value (tokens, key heads, width) -> (tokens, heads, width). row_lengths add
    up to all tokens."""
    result: torch.Tensor = _Attention.apply(query, key, value, tuple(row_lengths), scale)
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row_lengths: tuple[int, ...],
        scale: float,
    ) -> torch.Tensor:  # fmt: skip
        out = torch.empty_like(query)
        logs = torch.empty(query.shape[:2], dtype=_exact(query))
        with torch.autocast("cpu", enabled=False):
            for at in _blocks(query, key, row_lengths):
                weights = at.scores(query, key, scale)
                highest = weights.amax(1, keepdim=True)
                weights.sub_(highest).exp_()
                total = weights.sum(1, keepdim=True)
                found = (weights.to(value.dtype) @ at.of_keys(value)).div_(total)
                at.put(out, found)
                at.put(logs, highest.add_(total.log_()).squeeze(1))
        ctx.row_lengths, ctx.scale = row_lengths, scale
        (ctx.query, of_query), (ctx.key, of_key) = again.kept(query), again.kept(key)
        ctx.of_query = len(of_query)
        ctx.save_for_backward(value, out, logs, *of_query, *of_key)
        return out

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        value, out, logs, *sources = ctx.saved_tensors
        query, key = ctx.query.take(sources[: ctx.of_query]), ctx.key.take(sources[ctx.of_query :])
        given = outer[0].contiguous()
        of_query = torch.empty_like(query)
        of_key, of_value = (torch.zeros(key.shape, dtype=logs.dtype) for _ in range(2))
        for at in _blocks(query, key, ctx.row_lengths):
            weights = at.scores(query, key, ctx.scale).sub_(at.of_queries(logs).unsqueeze(1)).exp_()
            weights = at.drop_next_row(weights)
            outer_here, out_here = at.of_queries(given), at.of_queries(out)
            at.of_keys(of_value).add_(weights.to(value.dtype).T @ outer_here)
            along = (outer_here.to(logs.dtype) * out_here).sum(1, keepdim=True)
            slope = (outer_here @ at.of_keys(value).T).to(logs.dtype).sub_(along).mul_(weights).mul_(ctx.scale)
            slope = slope.to(query.dtype)
            at.put(of_query, slope @ at.of_keys(key))
            at.of_keys(of_key).add_(slope.T @ at.of_queries(query))
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None, None


class _Block:
    """Some tokens of a row as they ask, the heads that share one key; and the row's tokens up to the last of them.
    Both may reach into the next row."""

    def __init__(self, row: int, first: int, end: int, tokens: int, heads: slice, key_head: int):
        """The row begins at `row`, the block at `first`, and ends at `end`, of all `tokens`."""
        self._queries = slice(first, min(first + _up(end - first, QUERY_STEP), tokens))
        self._keys = slice(row, min(row + _up(end - row, KEY_STEP), tokens))
        self._valid = end - first
        self._before = first - row
        self._heads, self._key_head = heads, key_head

    def of_queries(self, tensor: torch.Tensor) -> torch.Tensor:
        """(tokens, heads, ...) -> (tokens here * heads here, ...)"""
        return tensor[self._queries, self._heads].flatten(0, 1)

    def of_keys(self, tensor: torch.Tensor) -> torch.Tensor:
        """(tokens, key heads, width) -> (tokens of the row so far, width), a view."""
        return tensor[self._keys, self._key_head]

    def put(self, tensor: torch.Tensor, here: torch.Tensor) -> None:
        """The opposite of `of_queries`, without what is not the row's."""
        to = tensor[self._queries, self._heads]
        to[: self._valid] = here.view(to.shape)[: self._valid]

    def scores(self, query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
        """(tokens here * heads here, tokens of the row so far) in float32, -inf for keys of later tokens."""
        scores = (self.of_queries(query).to(_exact(query)) * scale) @ self.of_keys(key).to(_exact(key)).T
        by_token = scores.view(self._queries.stop - self._queries.start, -1, scores.shape[1])[:, :, self._before :]
        by_token.masked_fill_(torch.ones(by_token.shape[::2], dtype=torch.bool).triu_(1).unsqueeze(1), -torch.inf)
        return scores

    def drop_next_row(self, weights: torch.Tensor) -> torch.Tensor:
        """Nothing goes back from what was computed for the next row's tokens."""
        weights.view(self._queries.stop - self._queries.start, -1)[self._valid :] = 0
        return weights


def _exact(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _blocks(query: torch.Tensor, key: torch.Tensor, row_lengths: Sequence[int]) -> Iterator[_Block]:
    groups, row = query.shape[1] // key.shape[1], 0
    for length in row_lengths:
        for first in range(row, row + length, BLOCK):
            for key_head in range(key.shape[1]):
                heads = slice(key_head * groups, (key_head + 1) * groups)
                yield _Block(row, first, min(first + BLOCK, row + length), len(query), heads, key_head)
        row += length
