"""Frozen linear layers with LoRA adapters as a single autograd function.

For layers W_i with adapters A_i, B_i (Hu et al., LoRA, arXiv:2106.09685) that all read one input x, the outputs are

    y_i = x W_i^T + s d(x) A_i^T B_i^T

with LoRA's scaling s and dropout d. This replaces the forward of PEFT's `lora.Linear`, which writes the adapter's
output and its scaled copy at the full width of the layer and adds them, and does the same with their gradients. Here
the low-rank product is accumulated into the output of the frozen layer. All layers share one dropout mask, which is
stored as one byte per value, instead of a dropped copy of x per adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer.model.on_cpu import recompute, row_parallel


@dataclass(frozen=True, slots=True)
class Layer:
    """A frozen linear layer and its adapter.

    weight: (out, in). down: (rank, in), LoRA's A. up: (out, rank), LoRA's B. Adapters are cast to the input's type.
    """

    weight: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor


def lora_linear(x: torch.Tensor, layers: Sequence[Layer], *, scale: float, dropout: float = 0.0) -> list[torch.Tensor]:
    """Return the outputs of adapted layers that read the same input.

    x: (..., in). scale: LoRA's scaling. dropout: the probability that the adapters read a value of x as 0; the frozen
    layers read all of them. Returns per layer (..., out), in the type of x.
    """
    tensors = [tensor for layer in layers for tensor in (layer.weight, layer.down, layer.up)]
    return list(_AdaptedLinear.apply(x, scale, dropout, *tensors))


class _AdaptedLinear(torch.autograd.Function):
    """All layers of a `lora_linear` call, differentiable in x and adapters.

    Saves x (or how to recompute it), the low-rank products d(x) A_i^T and the dropout mask.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: float, dropout: float, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the layers' outputs, each (..., out).

        tensors: weight, down and up of each layer.
        """
        weights, downs, ups = tensors[::3], tensors[1::3], tensors[2::3]
        rows = x.reshape(-1, x.shape[-1])
        dropped = None if dropout == 0 else _draw_dropout_mask(rows.shape, dropout)
        scale = scale / (1 - dropout)  # inverted dropout; scaling B, which is thin, is cheaper than scaling x
        outs = []
        with torch.autocast(x.device.type, enabled=False):
            low_rank = _apply_dropout(rows, dropped) @ torch.cat(downs).to(x.dtype).T
            for weight, up, part in zip(weights, ups, _split_ranks(low_rank, ups), strict=True):
                out = rows @ weight.T
                outs.append(out.addmm_(part, (up * scale).to(x.dtype).T).view(*x.shape[:-1], -1))
        ctx.scale = scale
        ctx.x, sources = recompute.reserve(x)
        ctx.save_for_backward(low_rank, dropped, *tensors, *sources)
        ctx.count = len(tensors)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x and, per layer, of A_i and B_i.

        With G_i the gradient of y_i, L_i = d(x) A_i^T, and s divided by (1 - dropout), by the chain rule:

            dB_i = s G_i^T L_i,  dL_i = s G_i B_i,  dA_i = dL_i^T d(x),  dx = sum_i (G_i W_i + d(dL_i A_i))

        where d only zeroes the dropped values. grad_outputs: per layer (..., out).
        """
        low_rank, dropped, *saved = ctx.saved_tensors
        weights, downs, ups = (saved[first : ctx.count : 3] for first in range(3))
        x = ctx.x.take(saved[ctx.count :])
        grad_outs = [grad_out.reshape(-1, grad_out.shape[-1]) for grad_out in grad_outputs]
        grad_low = torch.empty_like(low_rank)
        gradients: list[torch.Tensor | None] = []  # per layer: weight (frozen), down (assigned below), up
        for grad_out, up, part, grad_part in zip(
            grad_outs, ups, _split_ranks(low_rank, ups), _split_ranks(grad_low, ups), strict=True
        ):
            grad_part.copy_(grad_out @ (up * ctx.scale).to(grad_out.dtype))
            gradients += [None, None, (grad_out.T @ part).to(up.dtype).mul_(ctx.scale)]
        gradients[1::3] = _grad_downs(grad_low, _apply_dropout(x.reshape(-1, x.shape[-1]), dropped), downs)
        grad_x = (
            _grad_input(grad_outs, weights, grad_low, torch.cat(downs), dropped) if ctx.needs_input_grad[0] else None
        )
        return None if grad_x is None else grad_x.view(x.shape), None, None, *gradients


def _grad_downs(grad_low: torch.Tensor, x: torch.Tensor, downs: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """Return the gradients of all A_i, each (rank, in), from one product.

    grad_low: (rows, sum of ranks). x: (rows, in), after dropout. downs: the A_i, which give the ranks and the type.
    """
    return [*(grad_low.T @ x).to(downs[0].dtype).split([len(down) for down in downs])]


def _grad_input(
    grad_outs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    grad_low: torch.Tensor,
    down: torch.Tensor,
    dropped: torch.Tensor | None,
) -> torch.Tensor:
    """Return the gradient of x: (rows, in).

    grad_outs: per layer (rows, out). weights: per layer (out, in). grad_low: (rows, sum of ranks). down: the A_i as one
    matrix (sum of ranks, in). dropped: (rows, in), true where the adapters read a 0; None without dropout.
    """
    down = down.to(grad_low.dtype)
    grad_x = grad_outs[0] @ weights[0]
    for grad_out, weight in zip(grad_outs[1:], weights[1:], strict=True):
        grad_x.addmm_(grad_out, weight)
    return grad_x.addmm_(grad_low, down) if dropped is None else grad_x.add_((grad_low @ down).masked_fill_(dropped, 0))


def _split_ranks(low_rank: torch.Tensor, ups: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Split (rows, sum of ranks) into a view (rows, rank) per adapter."""
    parts: tuple[torch.Tensor, ...] = low_rank.split([up.shape[1] for up in ups], dim=1)
    return parts


def _apply_dropout(rows: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    """Return rows with 0 where `dropped` is true; both (rows, in)."""
    return rows if dropped is None else rows.masked_fill(dropped, 0)


def _draw_dropout_mask(shape: torch.Size, probability: float) -> torch.Tensor:
    """Draw a boolean mask of this shape, true with a probability.

    One random int64 decides four values, by 16 bits each, so the probability is met to 1/65,536. `bernoulli_` draws
    once per value and takes seven times as long.
    """
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=row_parallel.generator())
    return (draws.view(torch.int16)[:count] < round(probability * 2**16) - 2**15).view(shape)
