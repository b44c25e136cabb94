"""The language-model head and its loss in one pass over blocks of the vocabulary, with no logits kept.

Gemma's head has 262,144 columns: the logits of a thousand positions take a gigabyte, their gradient another. The loss
of a position needs of them only the log of the sum of their exponentials, which can be summed block by block with a
running maximum (the online softmax of Milakov & Gimelshein, arXiv:1805.02867, as used for losses by Wijmans et al., Cut
Your Losses, arXiv:2411.09009). The gradient of the hidden states is the softmax-weighted sum of the head's rows less
the target's row, a sum that can run along in the same pass; so a frozen head costs two products a block and nothing is
computed twice. A trained head needs the finished softmax for its own gradient, which backward recomputes.
"""

from __future__ import annotations

from typing import Any

import torch

# Columns of the head that have logits at once; of a thousand positions in float32, 16 MB.
BLOCK = 4096


def cross_entropy_sum(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, soft_cap: float | None = None
) -> torch.Tensor:
    """The sum over positions of the negative log-likelihood in nats of each target, as a float32 scalar.

    hidden: (positions, width), of positions that have a target. head: (vocabulary, width), with or without gradient; it
    may have more bits than hidden. targets: (positions,), int64. soft_cap: logits are soft_cap * tanh(logits /
    soft_cap), as in Gemma 2.
    """
    result: torch.Tensor = _CrossEntropySum.apply(hidden, head, targets, soft_cap)
    return result


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cap: float | None) -> Any:
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        positions, vocabulary = len(hidden), len(head)
        highest = torch.full((positions, 1), -torch.inf, dtype=exact, device=hidden.device)
        total = torch.zeros_like(highest)
        of_targets = torch.zeros((positions,), dtype=exact, device=hidden.device)
        in_one_pass = hidden.requires_grad and not head.requires_grad
        gradient = torch.zeros(hidden.shape, dtype=exact, device=hidden.device) if in_one_pass else None
        for start in range(0, vocabulary, BLOCK):
            rows = head[start : start + BLOCK].to(hidden.dtype)
            logits, slope = _logits(hidden, rows, cap, exact)
            here = (targets >= start) & (targets < start + BLOCK)
            of_targets[here] = logits[here, targets[here] - start]
            higher = torch.maximum(highest, logits.max(1, keepdim=True).values)
            rescale = torch.exp(highest - higher)
            weights = torch.exp(logits - higher)
            total = total * rescale + weights.sum(1, keepdim=True)
            if gradient is not None:
                weights = weights if slope is None else weights * slope
                gradient.mul_(rescale).add_(weights.to(rows.dtype) @ rows)
            highest = higher
        log_total = (highest + torch.log(total)).squeeze(1)
        if gradient is not None:
            gradient /= total
            target_slope = 1.0 if cap is None else 1 - (of_targets / cap).square().unsqueeze(1)
            gradient -= target_slope * head[targets].to(exact)
            ctx.save_for_backward(gradient)
        else:
            ctx.save_for_backward(hidden, head, targets, log_total)
        ctx.in_one_pass, ctx.cap, ctx.dtype = in_one_pass, cap, hidden.dtype
        return (log_total - of_targets).sum()

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        if ctx.in_one_pass:
            (gradient,) = ctx.saved_tensors
            return (gradient * outer[0]).to(ctx.dtype), None, None, None
        hidden, head, targets, log_total = ctx.saved_tensors
        exact = log_total.dtype
        of_hidden = torch.zeros(hidden.shape, dtype=exact, device=hidden.device) if ctx.needs_input_grad[0] else None
        of_head = torch.empty_like(head) if ctx.needs_input_grad[1] else None
        for start in range(0, len(head), BLOCK):
            rows = head[start : start + BLOCK].to(hidden.dtype)
            logits, slope = _logits(hidden, rows, ctx.cap, exact)
            weights = torch.exp(logits - log_total.unsqueeze(1))
            here = (targets >= start) & (targets < start + BLOCK)
            weights[here, targets[here] - start] -= 1
            weights = (weights if slope is None else weights * slope).mul_(outer[0]).to(rows.dtype)
            if of_hidden is not None:
                of_hidden += weights @ rows
            if of_head is not None:
                of_head[start : start + BLOCK] = weights.T @ hidden
        return None if of_hidden is None else of_hidden.to(ctx.dtype), of_head, None, None


def _logits(
    hidden: torch.Tensor, rows: torch.Tensor, cap: float | None, exact: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits (positions, rows) after the cap, and the cap's derivative there."""
    logits = (hidden @ rows.T).to(exact)
    if cap is None:
        return logits, None
    bent = torch.tanh(logits / cap)
    return cap * bent, 1 - bent.square()
