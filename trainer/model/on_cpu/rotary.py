"""Rotary positions (Su et al., arXiv:2104.09864): pairs of values turned by their position's angle. Nothing but the
angles is kept for backward, which turns back."""

from __future__ import annotations

from typing import Any

import torch

from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.compiled import loops_for


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x: (tokens, heads, width). cos, sin: (tokens, 1, width / 2), in the type of x: value i is paired with value
    i + width / 2, as in transformers."""
    out: torch.Tensor = _Turned.apply(x, cos, sin)
    if recompute.made_of(x) is None:  # to make it again would take x, which nobody keeps
        return out
    return recompute.mark_chain(out, x, _turn, cos, sin)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(outer[0], cos, -sin), None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    loops = loops_for(x)
    if loops is not None:
        turned: torch.Tensor = loops.turned(x.contiguous(), cos.contiguous(), sin.contiguous())
        return turned
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    (left, right), (to_left, to_right) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(left, cos, out=to_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=to_right).addcmul_(left, sin)
    return out
