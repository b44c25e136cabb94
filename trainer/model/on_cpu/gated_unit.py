"""GELU(gate) * up (Shazeer, arXiv:2002.05202), with GELU's tanh approximation (Hendrycks & Gimelshein,
arXiv:1606.08415), a few rows at a time in float32.

tanh(u) is 2 sigmoid(2u) - 1, so GELU(x) is x * sigmoid(2u): one exponent instead of a tanh. Kept for backward are gate
and up, in their own type; the result, which the next layer would keep, is made again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.compiled import loops_for

AT_ONCE = 2**18
# 2u = x * (LINEAR + CUBIC * x^2)
LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = LINEAR * 0.044715


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate, up and the result: (..., width)."""
    out: torch.Tensor = _GatedUnit.apply(gate.contiguous(), up.contiguous())
    return recompute.mark(out, _product, gate.detach(), up.detach())


class _GatedUnit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return _product(gate, up)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """GELU'(x) = s + x s (1 - s) (LINEAR + 3 CUBIC x^2) with s = sigmoid(2u)."""
        gate, up = ctx.saved_tensors
        loops, given = loops_for(gate), outer[0].contiguous()
        if loops is not None:
            gradients: tuple[torch.Tensor, torch.Tensor] = loops.gated_backward(given, gate, up)
            return gradients
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        for x, factor, of_out, to_gate, to_up in _parts(gate, up, given, of_gate, of_up):
            exact = x.to(_exact(x), copy=True)
            squared = exact * exact
            share = torch.add(LINEAR, squared, alpha=CUBIC).mul_(exact).sigmoid_()
            unit = exact.mul_(share)
            torch.mul(unit, of_out, out=to_up)
            slope = squared.mul_(3 * CUBIC).add_(LINEAR).mul_(unit)
            slope.addcmul_(slope, share, value=-1).add_(share)
            torch.mul(slope.mul_(factor), of_out, out=to_gate)
        return of_gate, of_up


def _product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    loops = loops_for(gate)
    if loops is not None:
        found: torch.Tensor = loops.gated(gate, up)
        return found
    out = torch.empty_like(gate)
    for x, factor, to in _parts(gate, up, out):
        exact = x.to(_exact(x))
        share = (exact * exact).mul_(CUBIC).add_(LINEAR).mul_(exact).sigmoid_()
        torch.mul(share.mul_(exact), factor, out=to)
    return out


def _exact(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _parts(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same few rows of each."""
    width = tensors[0].shape[-1]
    return zip(*(tensor.view(-1, width).split(max(1, AT_ONCE // width)) for tensor in tensors), strict=True)
