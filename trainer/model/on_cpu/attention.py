"""Causal attention within rows that lie one after the other, for heads that share their keys.

Block by block as in Dao et al., FlashAttention (arXiv:2205.14135), but with what a CPU multiplies fast: the queries of
all heads that share a key are one matrix, and no key after a block's last token is looked at. Scores are summed and
their softmax taken in float32. Its weights are kept for backward where rows are short, and made again where they are
long: a weight each for a token and all before it is little for hundreds of them, and most of the memory for thousands.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from trainer.model.on_cpu import recompute

# Tokens whose queries are one matrix; more of them look at more keys in vain, fewer make thinner products.
BLOCK = 128
# oneDNN writes code for every shape it has not met, which takes as long as the product of a short row, and keeps it. So
# there are few shapes: queries and keys are multiples of these, with some of the row after it, that count for nothing.
QUERY_STEP, KEY_STEP = 32, 64
# Keys that a block may see for its weights to be kept; of a token and head they are at most 320 numbers then.
KEPT = 512


def attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row_lengths: Sequence[int], scale: float,
    asking: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """query (asking tokens, heads, width), key and value (tokens, key heads, width) -> (asking tokens, heads, width).

    row_lengths add up to all tokens. asking: the tokens that the queries are of, ascending; None: of all.
    """
    asking, lengths = torch.arange(len(key)) if asking is None else asking, tuple(row_lengths)
    out: torch.Tensor
    out, *weights = _Attention.apply(query, key, value, asking, lengths, scale)
    if max(lengths) > KEPT:
        return out
    make = partial(_weighted, shape=out.shape, asking=asking, row_lengths=lengths)
    return recompute.mark(out, make, value.detach(), *weights)


def _weighted(
    value: torch.Tensor, *weights: torch.Tensor, shape: torch.Size, asking: torch.Tensor, row_lengths: tuple[int, ...]
) -> torch.Tensor:
    """The result once more, of the weights of all blocks."""
    out = value.new_empty(shape)
    for at, here in zip(_blocks(out, value, asking, row_lengths), weights, strict=True):
        at.put(out, here @ at.of_keys(value))
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, asking: torch.Tensor,
        row_lengths: tuple[int, ...], scale: float,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        """The result, and the weights that are kept."""
        out, kept = torch.empty_like(query), []
        with torch.autocast("cpu", enabled=False):
            for at in _blocks(query, key, asking, row_lengths):
                weights = at.weights(query, key, scale)
                at.put(out, weights @ at.of_keys(value))
                if at.keys <= KEPT:
                    kept.append(weights)
        ctx.row_lengths, ctx.scale = row_lengths, scale
        (ctx.query, of_query), (ctx.key, of_key) = recompute.kept(query), recompute.kept(key)
        ctx.counts = len(of_query), len(of_key)
        ctx.save_for_backward(value, asking, *of_query, *of_key, *kept)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        return out, *kept

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """With p the weights and g = outer V^T: of_scores = p * (g - sum(p * g)), of_V = p^T outer."""
        value, asking, *saved = ctx.saved_tensors
        query_end, key_end = ctx.counts[0], sum(ctx.counts)
        query, key = ctx.query.take(saved[:query_end]), ctx.key.take(saved[query_end:key_end])
        kept, given = iter(saved[key_end:]), outer[0].contiguous()
        of_query = torch.empty_like(query)
        of_key, of_value = (torch.zeros(key.shape, dtype=_exact(key)) for _ in range(2))
        for at in _blocks(query, key, asking, ctx.row_lengths):
            weights = next(kept) if at.keys <= KEPT else at.weights(query, key, ctx.scale)
            outer_here = at.of_queries(given)
            at.of_keys(of_value).add_(weights.T @ outer_here)
            of_weights = outer_here @ at.of_keys(value).T
            slope = torch.ops.aten._softmax_backward_data(of_weights, weights, 1, weights.dtype)
            at.put(of_query, slope @ at.of_keys(key))
            at.of_keys(of_key).add_(slope.T @ at.of_queries(query))
        return of_query.mul_(ctx.scale), of_key.mul_(ctx.scale).to(key.dtype), of_value.to(value.dtype), *[None] * 3


class _Block:
    """Some tokens of a row as they ask, the heads that share one key; and the row's tokens up to the last of them.
    Both may reach into the next row."""

    def __init__(self, queries: slice, valid: int, keys: slice, heads: slice, key_head: int, asking: torch.Tensor):
        """queries: places in `asking`, which says their tokens; the first `valid` are of this row."""
        self._queries, self._valid, self._keys = queries, valid, keys
        self._heads, self._key_head, self._asking = heads, key_head, asking[queries]

    @property
    def keys(self) -> int:
        """How many are looked at."""
        return int(self._keys.stop - self._keys.start)

    def of_queries(self, tensor: torch.Tensor) -> torch.Tensor:
        """(asking tokens, heads, ...) -> (tokens here * heads here, ...)"""
        return tensor[self._queries, self._heads].flatten(0, 1)

    def of_keys(self, tensor: torch.Tensor) -> torch.Tensor:
        """(tokens, key heads, width) -> (tokens of the row so far, width), a view."""
        return tensor[self._keys, self._key_head]

    def put(self, tensor: torch.Tensor, here: torch.Tensor) -> None:
        """The opposite of `of_queries`, without what is not the row's."""
        to = tensor[self._queries, self._heads]
        to[: self._valid] = here.view(to.shape)[: self._valid]

    def weights(self, query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
        """(tokens here * heads here, tokens of the row so far) in the type of key: the softmax, 0 for keys of later
        tokens and for queries of the next row."""
        exact = _exact(query)
        asked, keys = self.of_queries(query).to(exact), self.of_keys(key).to(exact)
        scores = torch.addmm(asked.new_empty(()), asked, keys.T, beta=0, alpha=scale)
        tokens = torch.arange(self._keys.start, self._keys.stop)
        later = torch.zeros(len(self._asking), 1, self.keys, dtype=exact)
        later.masked_fill_((tokens > self._asking.unsqueeze(1)).unsqueeze(1), -torch.inf)
        scores.view(len(self._asking), -1, self.keys).add_(later)
        weights = scores.softmax(1).to(key.dtype)
        weights.view(len(self._asking), -1)[self._valid :] = 0
        return weights


def _exact(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _blocks(
    query: torch.Tensor, key: torch.Tensor, asking: torch.Tensor, row_lengths: Sequence[int]
) -> Iterator[_Block]:
    groups, row, tokens = query.shape[1] // key.shape[1], 0, asking.tolist()
    for length in row_lengths:
        end = bisect_left(tokens, row + length)
        for first in range(bisect_left(tokens, row), end, BLOCK):
            valid = min(BLOCK, end - first)
            queries = slice(first, min(first + _up(valid, QUERY_STEP), len(tokens)))
            keys = slice(row, min(row + _up(tokens[first + valid - 1] + 1 - row, KEY_STEP), len(key)))
            for key_head in range(key.shape[1]):
                heads = slice(key_head * groups, (key_head + 1) * groups)
                yield _Block(queries, valid, keys, heads, key_head, asking)
        row += length
