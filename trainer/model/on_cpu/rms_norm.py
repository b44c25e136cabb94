"""Gemma's RMSNorm (Zhang & Sennrich, arXiv:1910.07467) with frozen weights, computed in float32 a few rows at a time.

transformers writes seven tensors in float32 on the way, and keeps three of them for backward; on a CPU, where fresh
memory costs more than arithmetic, that is most of a norm's time. Here rows go through the cache, and what is kept is
the input, which the layer before has anyway, and one number a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.compiled import loops_for

# Values that are worked on at once: in float32 what a core's own cache holds. Fewer are more calls.
AT_ONCE = 2**18


def normalized(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * (1 + weight) over the last dimension, in the type of x.

    x: (..., width). weight: (width,), frozen.
    """
    factor = weight.detach().to(_exact(x)) + 1
    x = x.contiguous()
    out, inverse = _RmsNorm.apply(x, factor, eps)
    return recompute.mark_chain(out, x, _scaled, inverse, factor)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
        loops = loops_for(x)
        out, inverse = _normalized(x, factor, eps) if loops is None else loops.normalized(x, factor, eps)
        ctx.x, source = recompute.kept(x)
        ctx.save_for_backward(inverse, factor, *source)
        ctx.mark_non_differentiable(inverse)
        return out, inverse

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """With r = 1 / rms(x) and g = outer * factor: r * (g - x * r^2 * mean(g * x))."""
        inverse, factor, *source = ctx.saved_tensors
        x = ctx.x.take(source)
        loops, given = loops_for(x), outer[0].contiguous()
        if loops is not None:
            return loops.normalized_backward(given, x, inverse, factor), None, None
        rows, gradient = x.flatten(0, -2), torch.empty_like(x)
        given = given.view(rows.shape)
        for part, found, of_out, to in _parts(rows, inverse.view(-1, 1), given, gradient.view(rows.shape)):
            exact, slope = part.to(factor.dtype), of_out.to(factor.dtype) * factor
            along = (slope * exact).mean(1, keepdim=True).mul_(found).mul_(found).neg_()
            to.copy_(slope.addcmul_(exact, along).mul_(found))
        return gradient, None, None


def _normalized(x: torch.Tensor, factor: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    rows, inverse = x.flatten(0, -2), x.new_empty((*x.shape[:-1], 1), dtype=_exact(x))
    out = torch.empty_like(x)
    for part, found, to in _parts(rows, inverse.view(-1, 1), out.view(rows.shape)):
        exact = part.to(factor.dtype)
        torch.mean(exact.square(), 1, keepdim=True, out=found).add_(eps).rsqrt_()
        to.copy_((exact * found).mul_(factor))
    return out, inverse


def _scaled(x: torch.Tensor, inverse: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The norm's result, of what was found on the way to it."""
    loops = loops_for(x)
    if loops is not None:
        found: torch.Tensor = loops.scaled(x, inverse, factor)
        return found
    out = torch.empty_like(x)
    for part, found, to in _parts(x.flatten(0, -2), inverse.view(-1, 1), out.view(-1, x.shape[-1])):
        to.copy_((part * found).mul_(factor))
    return out


def _exact(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _parts(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same few rows of each."""
    return zip(*(tensor.split(max(1, AT_ONCE // tensors[0].shape[1])) for tensor in tensors), strict=True)
