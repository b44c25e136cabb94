"""Gemma's gated unit GELU(gate) * up as a single autograd function.

The GEGLU of Shazeer (arXiv:2002.05202), with GELU's tanh approximation (Hendrycks & Gimelshein, arXiv:1606.08415):

    GELU(x) = x (1 + tanh(u)) / 2 = x sigmoid(2u),  2u = x (LINEAR + CUBIC x^2)

since tanh(u) = 2 sigmoid(2u) - 1: one exponential instead of a tanh. It replaces two operations of transformers, and is
computed a block at a time in float32. Backward needs gate and up, which are saved in their own type; the result, which
the next layer would save for its own backward, is recomputed from them (`recompute`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.compiled import loops_for

# Values per block: in float32 a block fits into a core's own cache.
BLOCK_VALUES = 2**18
# 2u = x * (LINEAR + CUBIC * x^2)
LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715


def gated_gelu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return GELU(gate) * up; gate, up and the result are (..., width)."""
    out: torch.Tensor = _GatedUnit.apply(gate.contiguous(), up.contiguous())
    return recompute.mark(out, _product, gate.detach(), up.detach())


class _GatedUnit(torch.autograd.Function):
    """The autograd function of `gated_gelu`, differentiable in both arguments."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return GELU(gate) * up, and save both arguments, each (..., width)."""
        ctx.save_for_backward(gate, up)
        return _product(gate, up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of gate and up, each (..., width).

        With G the gradient of the result and s = sigmoid(2u), the product rule gives

            d up = G GELU(x),  d gate = G up GELU'(x),  GELU'(x) = s + x s (1 - s) (LINEAR + 3 CUBIC x^2)

        where x is gate.
        """
        gate, up = ctx.saved_tensors
        loops, grad_out = loops_for(gate), grad_outputs[0].contiguous()
        if loops is not None:
            gradients: tuple[torch.Tensor, torch.Tensor] = loops.gated_gelu_backward(grad_out, gate, up)
            return gradients
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        for x, block_up, block_grad_out, block_grad_gate, block_grad_up in _blocks(
            gate, up, grad_out, grad_gate, grad_up
        ):
            exact = x.to(_float_dtype(x), copy=True)
            squared = exact * exact
            sigmoid = torch.add(LINEAR, squared, alpha=CUBIC).mul_(exact).sigmoid_()
            gelu = exact.mul_(sigmoid)
            torch.mul(gelu, block_grad_out, out=block_grad_up)
            slope = squared.mul_(3 * CUBIC).add_(LINEAR).mul_(gelu)
            slope.addcmul_(slope, sigmoid, value=-1).add_(sigmoid)
            torch.mul(slope.mul_(block_up), block_grad_out, out=block_grad_gate)
        return grad_gate, grad_up


def _product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return GELU(gate) * up in the type of gate; all are (..., width)."""
    loops = loops_for(gate)
    if loops is not None:
        product: torch.Tensor = loops.gated_gelu(gate, up)
        return product
    out = torch.empty_like(gate)
    for x, block_up, block_out in _blocks(gate, up, out):
        exact = x.to(_float_dtype(x))
        sigmoid = (exact * exact).mul_(CUBIC).add_(LINEAR).mul_(exact).sigmoid_()
        torch.mul(sigmoid.mul_(exact), block_up, out=block_out)
    return out


def _float_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type to compute in: that of x, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _blocks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the same few rows of each of some tensors (..., width), as views."""
    width = tensors[0].shape[-1]
    return zip(*(tensor.view(-1, width).split(max(1, BLOCK_VALUES // width)) for tensor in tensors), strict=True)
