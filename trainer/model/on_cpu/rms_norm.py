"""Gemma's RMSNorm with frozen weights as a single autograd function.

The norm of Zhang & Sennrich (arXiv:1910.07467), scaled by 1 + weight and computed in float32, one block of rows at a
time. transformers' own norm writes seven intermediate tensors in float32 and saves three of them for backward; on a
CPU, where allocating memory costs more than arithmetic, that takes most of its time. Here, a block stays in the cache.
Backward needs only the input, which `recompute` may derive from what another layer saved, and one number per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.compiled import loops_for

# Values per block: in float32 a block fits into a core's own cache. Smaller blocks need more calls.
BLOCK_VALUES = 2**18


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x / sqrt(mean(x^2) + eps) * (1 + weight) over the last dimension.

    x: (..., width). weight: (width,), frozen: it gets no gradient. The result is in the shape and type of x.
    """
    factor = weight.detach().to(_float_dtype(x)) + 1
    x = x.contiguous()
    out, inverse_rms = _RmsNorm.apply(x, factor, eps)
    return recompute.mark_chain(out, x, _recomputed, inverse_rms, factor)


class _RmsNorm(torch.autograd.Function):
    """The autograd function of `rms_norm`, differentiable in x only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
        """Return the norm (..., width) and 1 / rms(x) (..., 1).

        factor: (width,), 1 + weight in float32 at least. 1 / rms(x) is in the type of factor and has no gradient; it is
        an output so that `recompute` can use it.
        """
        loops = loops_for(x)
        out, inverse_rms = _forward(x, factor, eps) if loops is None else loops.rms_norm(x, factor, eps)
        ctx.x, sources = recompute.reserve(x)
        ctx.save_for_backward(inverse_rms, factor, *sources)
        ctx.mark_non_differentiable(inverse_rms)
        return out, inverse_rms

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of x, in its shape and type.

        With r = 1 / sqrt(mean(x^2) + eps), y = x r factor and g = grad_out * factor: dr/dx_i = -r^3 x_i / width, so

            dx = r g + sum(g x) dr/dx = r (g - x r^2 mean(g x))

        grad_outputs: the gradients of forward's two results; the second one, of 1 / rms(x), is unused.
        """
        inverse_rms, factor, *sources = ctx.saved_tensors
        x = ctx.x.take(sources)
        loops, grad_out = loops_for(x), grad_outputs[0].contiguous()
        if loops is not None:
            return loops.rms_norm_backward(grad_out, x, inverse_rms, factor), None, None
        rows, gradient = x.flatten(0, -2), torch.empty_like(x)
        grad_out = grad_out.view(rows.shape)
        for block, block_inverse_rms, block_grad_out, block_gradient in _blocks(
            rows, inverse_rms.view(-1, 1), grad_out, gradient.view(rows.shape)
        ):
            block_x, scaled_grad = block.to(factor.dtype), block_grad_out.to(factor.dtype) * factor
            projection = (
                (scaled_grad * block_x).mean(1, keepdim=True).mul_(block_inverse_rms).mul_(block_inverse_rms).neg_()
            )
            block_gradient.copy_(scaled_grad.addcmul_(block_x, projection).mul_(block_inverse_rms))
        return gradient, None, None


def _forward(x: torch.Tensor, factor: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute what the autograd function's forward returns, in PyTorch."""
    rows, inverse_rms = x.flatten(0, -2), x.new_empty((*x.shape[:-1], 1), dtype=_float_dtype(x))
    out = torch.empty_like(x)
    for block, block_inverse_rms, block_out in _blocks(rows, inverse_rms.view(-1, 1), out.view(rows.shape)):
        block_x = block.to(factor.dtype)
        torch.mean(block_x.square(), 1, keepdim=True, out=block_inverse_rms).add_(eps).rsqrt_()
        block_out.copy_((block_x * block_inverse_rms).mul_(factor))
    return out, inverse_rms


def _recomputed(x: torch.Tensor, inverse_rms: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return the norm (..., width), recomputed from the saved 1 / rms(x)."""
    loops = loops_for(x)
    if loops is not None:
        compiled_out: torch.Tensor = loops.rms_norm_from_inverse(x, inverse_rms, factor)
        return compiled_out
    out = torch.empty_like(x)
    for block, scale, block_out in _blocks(x.flatten(0, -2), inverse_rms.view(-1, 1), out.view(-1, x.shape[-1])):
        block_out.copy_((block * scale).mul_(factor))
    return out


def _float_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type to compute in: that of x, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _blocks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Split tensors (rows, width) into matching blocks of rows, as views."""
    return zip(*(tensor.split(max(1, BLOCK_VALUES // tensors[0].shape[1])) for tensor in tensors), strict=True)
