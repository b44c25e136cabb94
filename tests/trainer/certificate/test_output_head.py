"""The output head."""

from __future__ import annotations

import pytest
import torch

from trainer.certificate import output_head
from trainer.certificate.output_head import OutputHead


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("converted_up_to", [0, 1 << 30])
@pytest.mark.parametrize("positions", [0, 1, 5])
def test_logits_are_the_product_with_the_whole_weight(
    monkeypatch: pytest.MonkeyPatch, cap: float | None, converted_up_to: int, positions: int
) -> None:
    monkeypatch.setattr(output_head, "CONVERTED_UP_TO", converted_up_to)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2 * output_head.TOKENS + 7, 24, generator=generator).bfloat16()
    hidden = torch.randn(positions, 24, generator=generator)
    expected = hidden.double() @ weight.double().T
    expected = expected if cap is None else cap * torch.tanh(expected / cap)
    logits = OutputHead(weight, cap)(hidden)
    assert (logits.shape, logits.dtype) == (expected.shape, torch.float32)
    assert logits.is_contiguous()
    torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=1e-5)
