"""A frozen linear layer and its LoRA adapter (Hu et al., arXiv:2106.09685) as one function: x W^T + s d(x) A^T B^T.

PEFT adds the adapter's output, scaled, to the layer's: three tensors of its width, and as many for their gradients.
Here the thin product is added where the wide one lies. Dropout keeps a byte a value instead of two copies of x.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.on_cpu import again


def adapted(
    x: torch.Tensor, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, *, scale: float, dropout: float = 0.0
) -> torch.Tensor:
    """x: (..., in). weight: (out, in), frozen. down: (rank, in) and up: (out, rank), LoRA's A and B; they are cast to
    the type of x, which the result has. dropout: the probability that a value of x is not seen by the adapter."""
    result: torch.Tensor = _AdaptedLinear.apply(x, weight, down, up, scale, dropout)
    return result


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float,
        dropout: float,
    ) -> torch.Tensor:  # fmt: skip
        rows = x.reshape(-1, x.shape[-1])
        dropped = None if dropout == 0 else _chosen(rows.shape, dropout)
        scale = scale / (1 - dropout)  # what is kept grows by what is dropped; a thin tensor is scaled faster than x
        with torch.autocast(x.device.type, enabled=False):
            low = _seen(rows, dropped) @ down.to(x.dtype).T
            out = rows @ weight.T
            out.addmm_(low, (up * scale).to(x.dtype).T)
        ctx.scale = scale
        ctx.x, source = again.kept(x)
        ctx.save_for_backward(weight, down, up, low, dropped, *source)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        weight, down, up, low, dropped, *source = ctx.saved_tensors
        x = ctx.x.take(source)
        given = outer[0].reshape(-1, outer[0].shape[-1])
        of_low = given @ (up * ctx.scale).to(given.dtype)
        of_up = (given.T @ low).to(up.dtype).mul_(ctx.scale)
        of_down = (of_low.T @ _seen(x.reshape(-1, x.shape[-1]), dropped)).to(down.dtype)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = given @ weight
            if dropped is None:
                of_x.addmm_(of_low, down.to(given.dtype))
            else:
                of_x += (of_low @ down.to(given.dtype)).masked_fill_(dropped, 0)
            of_x = of_x.view(*outer[0].shape[:-1], -1)
        return of_x, None, of_down, of_up, None, None


def _seen(rows: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    return rows if dropped is None else rows.masked_fill(dropped, 0)


def _chosen(shape: torch.Size, probability: float) -> torch.Tensor:
    """Which values are dropped. Four are decided by one draw of 64 bits, 16 bits each (so the probability is met to
    1/65,536): `bernoulli_` draws for each alone, and takes seven times as long."""
    count = shape.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return (draws.view(torch.int16)[:count] < round(probability * 2**16) - 2**15).view(shape)
