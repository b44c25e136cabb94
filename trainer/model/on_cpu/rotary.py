"""Rotary position embeddings as a single autograd function.

RoPE of Su et al. (RoFormer, arXiv:2104.09864): each pair of values is rotated by an angle that grows with the position.
It replaces `apply_rotary_pos_emb` of transformers, which writes a rotated copy and two products. Only the angles are
saved: the backward of a rotation is the inverse rotation.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.compiled import loops_for


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (i, i + width / 2) of the last dimension.

    x: (tokens, heads, width). cos, sin: (tokens, 1, width / 2), of each pair's angle, in the type of x. Pairs are those
    of transformers, halves of the width, not neighbours as in the paper. The result is in the shape and type of x.
    """
    out: torch.Tensor = _Rotary.apply(x, cos, sin)
    if recompute.recipe_of(x) is None:  # recomputing the result would need x, which is not saved
        return out
    return recompute.mark_chain(out, x, _rotate, cos, sin)


class _Rotary(torch.autograd.Function):
    """The autograd function of `rotate`, differentiable in x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return x rotated, and save the angles only."""
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of x (tokens, heads, width).

        A rotation R is orthogonal, so dx = R^T dy: the rotation by the negative angle.
        """
        cos, sin = ctx.saved_tensors
        return _rotate(grad_outputs[0], cos, -sin), None, None


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return (left cos - right sin, right cos + left sin), by halves of x."""
    loops = loops_for(x)
    if loops is not None:
        rotated: torch.Tensor = loops.rotate(x.contiguous(), cos.contiguous(), sin.contiguous())
        return rotated
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    (left, right), (to_left, to_right) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(left, cos, out=to_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=to_right).addcmul_(left, sin)
    return out
