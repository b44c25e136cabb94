"""Blocks of 64 values in 4 bits, of which the last one may be shorter."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.functional import quantize_4bit

from trainer.certificate.files import weights
from trainer.certificate.files.weights import NF4_BLOCK, Weight


def problem(exact: torch.Tensor, stored: torch.Tensor, block: int | None = None) -> str | None:
    """Return the problem of a tensor in 4 bits.

    stored: the values that are quantized. block: the one whose scale becomes the smallest.
    """
    packed, state = quantize_4bit(stored.bfloat16(), quant_type="nf4", compress_statistics=True)
    parts = {name: part.clone() for name, part in state.as_dict(packed=True).items()}
    if block is not None:
        parts["absmax"][block] = 0
    return weights._nf4_problem(Weight("x", exact, trained=True), packed, parts)


@pytest.mark.parametrize("shape", [(32, 64), (37, 50), (640, 33), (45, 26)])
def test_every_block_in_4_bits_is_checked(shape: tuple[int, int]) -> None:
    """A whole block or a shorter last one, of which a single one is wrong."""
    for seed in range(20):
        exact = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02
        assert problem(exact, exact) is None
    blocks = -(-exact.numel() // NF4_BLOCK)
    for block in (0, blocks // 2, blocks - 1):
        assert problem(exact, exact, block) is not None


def test_a_shorter_last_block_that_is_scaled_is_noticed() -> None:
    """Change a block that is within the error of its tensor and its row."""
    exact = torch.randn(127, 2001, generator=torch.Generator().manual_seed(1)) * 0.02
    stored, last = exact.clone().reshape(-1), exact.numel() % NF4_BLOCK
    assert last
    stored[-last:] *= 2
    assert "has a block scaled by 1.9" in str(problem(exact, stored.reshape(exact.shape)))
