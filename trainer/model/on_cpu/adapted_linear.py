"""Frozen linear layers of one input, and their LoRA adapters (Hu et al., arXiv:2106.09685), as one function: for each
x W^T + s d(x) A^T B^T.

PEFT adds the adapter's output, scaled, to the layer's: three tensors of its width, and as many for their gradients.
Here the thin product is added where the wide one lies. The adapters see one d(x): its values are drawn once, and kept
as a byte each instead of a copy of x an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.model.on_cpu import recompute, row_parallel


@dataclass(frozen=True, slots=True)
class Layer:
    """weight: (out, in), frozen. down: (rank, in) and up: (out, rank), LoRA's A and B; cast to the input's type."""

    weight: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor


def adapted(x: torch.Tensor, layers: Sequence[Layer], *, scale: float, dropout: float = 0.0) -> list[torch.Tensor]:
    """x: (..., in). Of each layer (..., out), in the type of x. dropout: the probability that a value of x is not seen
    by the adapters."""
    tensors = [tensor for layer in layers for tensor in (layer.weight, layer.down, layer.up)]
    return list(_AdaptedLinear.apply(x, scale, dropout, *tensors))


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: float, dropout: float, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        weights, downs, ups = tensors[::3], tensors[1::3], tensors[2::3]
        rows = x.reshape(-1, x.shape[-1])
        dropped = None if dropout == 0 else _chosen(rows.shape, dropout)
        scale = scale / (1 - dropout)  # what is kept grows by what is dropped; a thin tensor is scaled faster than x
        outs = []
        with torch.autocast(x.device.type, enabled=False):
            low = _seen(rows, dropped) @ torch.cat(downs).to(x.dtype).T
            for weight, up, part in zip(weights, ups, _split(low, ups), strict=True):
                out = rows @ weight.T
                outs.append(out.addmm_(part, (up * scale).to(x.dtype).T).view(*x.shape[:-1], -1))
        ctx.scale = scale
        ctx.x, source = recompute.kept(x)
        ctx.save_for_backward(low, dropped, *tensors, *source)
        ctx.count = len(tensors)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        low, dropped, *saved = ctx.saved_tensors
        weights, downs, ups = (saved[first : ctx.count : 3] for first in range(3))
        x = ctx.x.take(saved[ctx.count :])
        given = [of_out.reshape(-1, of_out.shape[-1]) for of_out in outer]
        of_low = torch.empty_like(low)
        gradients: list[torch.Tensor | None] = []
        for of_out, up, part, of_part in zip(given, ups, _split(low, ups), _split(of_low, ups), strict=True):
            of_part.copy_(of_out @ (up * ctx.scale).to(of_out.dtype))
            gradients += [None, None, (of_out.T @ part).to(up.dtype).mul_(ctx.scale)]
        gradients[1::3] = _of_downs(of_low, _seen(x.reshape(-1, x.shape[-1]), dropped), downs)
        of_x = _of_input(given, weights, of_low, torch.cat(downs), dropped) if ctx.needs_input_grad[0] else None
        return None if of_x is None else of_x.view(x.shape), None, None, *gradients


def _of_downs(of_low: torch.Tensor, seen: torch.Tensor, downs: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    return [*(of_low.T @ seen).to(downs[0].dtype).split([len(down) for down in downs])]


def _of_input(
    given: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], of_low: torch.Tensor, down: torch.Tensor,
    dropped: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    down = down.to(of_low.dtype)
    of_x = given[0] @ weights[0]
    for of_out, weight in zip(given[1:], weights[1:], strict=True):
        of_x.addmm_(of_out, weight)
    return of_x.addmm_(of_low, down) if dropped is None else of_x.add_((of_low @ down).masked_fill_(dropped, 0))


def _split(low: torch.Tensor, ups: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Each adapter's part of what is as wide as all their ranks."""
    parts: tuple[torch.Tensor, ...] = low.split([up.shape[1] for up in ups], dim=1)
    return parts


def _seen(rows: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    return rows if dropped is None else rows.masked_fill(dropped, 0)


def _chosen(shape: torch.Size, probability: float) -> torch.Tensor:
    """Which values are dropped. Four are decided by one draw of 64 bits, 16 bits each (so the probability is met to
    1/65,536): `bernoulli_` draws for each alone, and takes seven times as long."""
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=row_parallel.generator())
    return (draws.view(torch.int16)[:count] < round(probability * 2**16) - 2**15).view(shape)
