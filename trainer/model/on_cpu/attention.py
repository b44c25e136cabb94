"""Causal attention within concatenated rows, for heads that share their keys.

Computed block by block as in Dao et al., FlashAttention (arXiv:2205.14135), arranged for what a CPU multiplies fast:
the queries of all heads that share a key head form one matrix, and keys after the block's last token are skipped.
Scores are accumulated and normalized in float32. Short rows save the softmax weights for backward; long rows recompute
them, since one weight per pair of tokens is little memory for hundreds of tokens and most of it for thousands.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from trainer.model.on_cpu import recompute

# Query tokens per block. Larger blocks multiply more keys that the causal mask discards; smaller ones multiply slower.
BLOCK = 128
# oneDNN compiles code for every new shape, which takes as long as the product of a short row, and caches it. To keep
# shapes few, the numbers of queries and keys are rounded up to these multiples. A block may then reach into the next
# row, whose tokens are masked.
QUERY_MULTIPLE, KEY_MULTIPLE = 32, 64
# Blocks with at most this many keys save their weights for backward: at most 320 numbers per token and head.
MAX_SAVED_KEYS = 512


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row_lengths: Sequence[int],
    scale: float,
    query_positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax(scale * query key^T) value, causal within each row.

    query: (query tokens, heads, width). key, value: (tokens, key heads, width); heads is a multiple of key heads.
    row_lengths: tokens per row; they add up to all tokens. query_positions: (query tokens,), int64, ascending: the
    token that each query belongs to; None if there is a query for every token. Returns (query tokens, heads, width) in
    the type of query.
    """
    if query_positions is None:
        query_positions = torch.arange(len(key))
    lengths = tuple(row_lengths)
    out: torch.Tensor
    out, *weights = _Attention.apply(query, key, value, query_positions, lengths, scale)
    if max(lengths) > MAX_SAVED_KEYS:
        return out
    make = partial(_weights_times_value, shape=out.shape, query_positions=query_positions, row_lengths=lengths)
    return recompute.mark(out, make, value.detach(), *weights)


def _weights_times_value(
    value: torch.Tensor,
    *weights: torch.Tensor,
    shape: torch.Size,
    query_positions: torch.Tensor,
    row_lengths: tuple[int, ...],
) -> torch.Tensor:
    """Recompute the output from the saved weights of all blocks.

    value: (tokens, key heads, width). weights: per block, as `_Block.weights` returns them. shape: of the output.
    """
    out = value.new_empty(shape)
    for block, block_weights in zip(_blocks(out, value, query_positions, row_lengths), weights, strict=True):
        block.write(out, block_weights @ block.key_rows(value))
    return out


class _Attention(torch.autograd.Function):
    """Attention of one `attend` call; differentiable in query, key and value.

    Unlike scaled_dot_product_attention it takes rows of different lengths without padding or a mask over all tokens.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        query_positions: torch.Tensor,
        row_lengths: tuple[int, ...],
        scale: float,
    ) -> tuple[torch.Tensor, ...]:
        """Return the output, then the weights of each block that saves them.

        Shapes are those of `attend`. The weights are outputs so that `recompute` can use them; they have no gradient.
        """
        out, saved_weights = torch.empty_like(query), []
        with torch.autocast("cpu", enabled=False):
            for block in _blocks(query, key, query_positions, row_lengths):
                weights = block.weights(query, key, scale)
                block.write(out, weights @ block.key_rows(value))
                if block.key_count <= MAX_SAVED_KEYS:
                    saved_weights.append(weights)
        ctx.row_lengths, ctx.scale = row_lengths, scale
        (ctx.query, query_sources), (ctx.key, key_sources) = recompute.reserve(query), recompute.reserve(key)
        ctx.counts = len(query_sources), len(key_sources)
        ctx.save_for_backward(value, query_positions, *query_sources, *key_sources, *saved_weights)
        ctx.mark_non_differentiable(*saved_weights)
        ctx.set_materialize_grads(False)
        return out, *saved_weights

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value, in their types.

        With S = scale Q K^T, P = softmax(S), O = P V (FlashAttention, appendix B.2):

            dV = P^T dO,  dP = dO V^T,  dS = P * (dP - rowsum(P * dP)),  dQ = scale dS K,  dK = scale dS^T Q

        dK and dV are summed in float32 over the blocks and heads that share a key. grad_outputs: the gradient of the
        output, (query tokens, heads, width), and None for each of the weights.
        """
        value, query_positions, *saved = ctx.saved_tensors
        query_end, key_end = ctx.counts[0], sum(ctx.counts)
        query, key = ctx.query.take(saved[:query_end]), ctx.key.take(saved[query_end:key_end])
        saved_weights, grad_out = iter(saved[key_end:]), grad_outputs[0].contiguous()
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros(key.shape, dtype=_sum_dtype(key)) for _ in range(2))
        for block in _blocks(query, key, query_positions, ctx.row_lengths):
            weights = next(saved_weights) if block.key_count <= MAX_SAVED_KEYS else block.weights(query, key, ctx.scale)
            block_grad_out = block.query_rows(grad_out)
            block.key_rows(grad_value).add_(weights.T @ block_grad_out)
            grad_weights = block_grad_out @ block.key_rows(value).T
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, 1, weights.dtype)
            block.write(grad_query, grad_scores @ block.key_rows(key))
            block.key_rows(grad_key).add_(grad_scores.T @ block.query_rows(query))
        return (
            grad_query.mul_(ctx.scale),
            grad_key.mul_(ctx.scale).to(key.dtype),
            grad_value.to(value.dtype),
            *[None] * 3,
        )


class _Block:
    """Some query tokens of a row, and the keys they see, for one key head.

    A block has up to BLOCK query tokens, with all heads that share the key head, and the row's keys up to the last
    query token. Rounded up to the multiples above, queries and keys may reach into the next row; `weights` is 0 there,
    and `write` skips those queries.
    """

    def __init__(
        self, queries: slice, valid: int, keys: slice, heads: slice, key_head: int, query_positions: torch.Tensor
    ):
        """Select queries and keys.

        queries: indices into `query_positions`, of which the first `valid` belong to the row. keys: token indices.
        heads: the query heads that share `key_head`.
        """
        self._queries, self._valid, self._keys = queries, valid, keys
        self._heads, self._key_head, self._query_positions = heads, key_head, query_positions[queries]

    @property
    def key_count(self) -> int:
        """Return how many keys the block multiplies, masked ones included."""
        return int(self._keys.stop - self._keys.start)

    def query_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy this block's queries out of (query tokens, heads, ...).

        Returns (block queries * block heads, ...).
        """
        return tensor[self._queries, self._heads].flatten(0, 1)

    def key_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a view of this block's keys in (tokens, key heads, width).

        Returns (block keys, width).
        """
        return tensor[self._keys, self._key_head]

    def write(self, tensor: torch.Tensor, rows: torch.Tensor) -> None:
        """Write rows to this block's queries in (query tokens, heads, width).

        rows: (block queries * block heads, width). The inverse of `query_rows`, except that queries of the next row are
        skipped.
        """
        target = tensor[self._queries, self._heads]
        target[: self._valid] = rows.view(target.shape)[: self._valid]

    def weights(self, query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
        """Return the softmax of this block's scores, in the type of key.

        Returns (block queries * block heads, block keys); 0 for keys after the query's token and for queries of the
        next row. query, key, scale: as in `attend`.
        """
        exact = _sum_dtype(query)
        queries, keys = self.query_rows(query).to(exact), self.key_rows(key).to(exact)
        scores = torch.addmm(queries.new_empty(()), queries, keys.T, beta=0, alpha=scale)
        tokens = torch.arange(self._keys.start, self._keys.stop)
        causal_mask = torch.zeros(len(self._query_positions), 1, self.key_count, dtype=exact)
        causal_mask.masked_fill_((tokens > self._query_positions.unsqueeze(1)).unsqueeze(1), -torch.inf)
        scores.view(len(self._query_positions), -1, self.key_count).add_(causal_mask)
        weights = scores.softmax(1).to(key.dtype)
        weights.view(len(self._query_positions), -1)[self._valid :] = 0
        return weights


def _sum_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the type for sums: that of the tensor, but at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is at least `number`."""
    return -(-number // multiple) * multiple


def _blocks(
    query: torch.Tensor, key: torch.Tensor, query_positions: torch.Tensor, row_lengths: Sequence[int]
) -> Iterator[_Block]:
    """Yield the blocks of all rows and key heads, always in the same order.

    Shapes are those of `attend`.
    """
    groups, row, tokens = query.shape[1] // key.shape[1], 0, query_positions.tolist()
    for length in row_lengths:
        end = bisect_left(tokens, row + length)
        for first in range(bisect_left(tokens, row), end, BLOCK):
            valid = min(BLOCK, end - first)
            queries = slice(first, min(first + _round_up(valid, QUERY_MULTIPLE), len(tokens)))
            keys = slice(row, min(row + _round_up(tokens[first + valid - 1] + 1 - row, KEY_MULTIPLE), len(key)))
            for key_head in range(key.shape[1]):
                heads = slice(key_head * groups, (key_head + 1) * groups)
                yield _Block(queries, valid, keys, heads, key_head, query_positions)
        row += length
