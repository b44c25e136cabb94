"""float32 to bf16 without losing changes that are smaller than bf16's last digit.

A base model lies on bf16's grid. What a short training adds, or one with a low learning rate, is mostly less than half
a step of it, and rounding to the nearest undoes it. Rounded up or down by chance, the nearer the likelier, each value
comes out right on average (Gupta et al., "Deep Learning with Limited Numerical Precision", 2015), and a model adds up
hundreds of them. Values that bf16 has stay as they are.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Values at a time: the copies that rounding makes are small beside an embedding.
CHUNK = 1 << 20


def bfloat16(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A float32 tensor in bf16. The same name and values give the same bits."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    rounded = torch.empty(weight.numel(), dtype=torch.bfloat16)
    for source, target in zip(weight.reshape(-1).split(CHUNK), rounded.split(CHUNK), strict=True):
        bits = source.view(torch.int32)
        # bf16 is the upper half of float32: what is added to the lower half carries over as often as it should.
        chance = torch.randint(1 << 16, bits.shape, dtype=torch.int32, generator=generator)
        target.copy_(((bits + chance) & ~0xFFFF).view(torch.float32))
    return rounded.reshape(weight.shape)
