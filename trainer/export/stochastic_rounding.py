"""Stochastic rounding of float32 to bf16, which keeps small changes.

A base model's weights are bf16 values. A short training, or one with a low learning rate, changes most of them by less
than half the distance to the next bf16 value, so rounding to the nearest would undo it. Stochastic rounding goes to
either neighbour with a probability that grows as it gets nearer, so that the expected value is exact (Gupta et al.,
"Deep Learning with Limited Numerical Precision", 2015). A model sums hundreds of weights, so the errors average out.
Values that bf16 can represent do not change.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Values per chunk, so that temporary copies are small compared to an embedding.
CHUNK = 1 << 20


def bfloat16(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Round a float32 tensor to bf16 stochastically.

    name: seeds the random numbers, so that the same name and values give the same bits.
    """
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    rounded = torch.empty(weight.numel(), dtype=torch.bfloat16)
    for source, target in zip(weight.reshape(-1).split(CHUNK), rounded.split(CHUNK), strict=True):
        bits = source.view(torch.int32)
        # bf16 is the upper half of float32. A uniform random number, added to the lower half, carries over with
        # probability lower half / 2**16.
        noise = torch.randint(1 << 16, bits.shape, dtype=torch.int32, generator=generator)
        target.copy_(((bits + noise) & ~0xFFFF).view(torch.float32))
    return rounded.reshape(weight.shape)
