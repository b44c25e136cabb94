"""Attention on a GPU, compared with the formula and with eager attention.

In bfloat16, with heads as wide as those of real models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny_gemma
from tests.gpu.conftest import convert_to_bf16
from tests.trainer.model.test_row_attention import loss_and_gradients, rows
from trainer.model import attention_report, row_attention
from trainer.model.attention import flash_rows
from trainer.model.attention.choice import Layers, choose
from trainer.training.batches import flatten_rows, pad_rows

pytestmark = pytest.mark.gpu

# Largest relative difference of losses and gradients from those in float32, summed over a model's layers.
OF_LOSS, OF_GRADIENTS = 0.02, 0.15
FLASH = (8, 0)


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    assert torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device())


@pytest.mark.parametrize("is_sliding", [True, False])
@pytest.mark.parametrize("head", [64, 128, 256])
def test_flash_attention_agrees_with_the_formula(gpu: torch.device, head: int, is_sliding: bool) -> None:
    if torch.cuda.get_device_capability() < FLASH:
        pytest.skip("FlashAttention needs a newer GPU")
    assert flash_rows.refusal(head, is_sliding, torch.bfloat16, gpu) is None
    layers = Layers(head, 512 if is_sliding else None)
    situation = flash_rows.situation_of(gpu, torch.bfloat16, layers)
    assert choose(layers, situation).implementation.name == "flash_rows"


@pytest.mark.parametrize(("window", "cap"), [(None, None), (64, None), (None, 50.0), (64, 50.0)])
@pytest.mark.parametrize("head", [64, 256, 512])
def test_row_attention_agrees_with_that_of_a_cpu(
    gpu: torch.device, head: int, window: int | None, cap: float | None
) -> None:
    generator, lengths = torch.Generator().manual_seed(0), [5, 300, 64, 65]
    drawn = [torch.randn(1, heads, sum(lengths), head, generator=generator).bfloat16() for heads in (4, 2, 2)]
    options: dict[str, Any] = {"row_lengths": lengths, "scaling": head**-0.5, "sliding_window": window, "softcap": cap}
    results = []
    for device, dtype in ((gpu, torch.bfloat16), (torch.device("cpu"), torch.float32)):
        tensors = [tensor.to(device, dtype, copy=True).requires_grad_() for tensor in drawn]
        attended, _ = row_attention.attend(torch.nn.Identity(), tensors[0], tensors[1], tensors[2], None, **options)
        attended.float().square().sum().backward()
        results.append([attended.detach(), *(tensor.grad for tensor in tensors)])
    for ours, expected in zip(*results, strict=True):
        assert ours is not None
        assert expected is not None
        assert relative(ours, expected) < 0.03


@pytest.mark.parametrize("shape", ["gemma", "gemma2", "gemma3", "gemma3n-text", "gemma4-e-text", "gemma4-dense-text"])
def test_packed_rows_have_the_losses_and_gradients_of_eager_attention(
    tmp_path: Path, gpu: torch.device, shape: str
) -> None:
    from transformers import AutoModelForCausalLM

    row_attention.register()
    folder = convert_to_bf16(tiny_gemma.build(tmp_path / shape, shape, head_dim=256))
    exact: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ours: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation=row_attention.NAME, device_map=gpu
    )
    for line in attention_report.lines(ours, torch.bfloat16, "huggingface"):
        print(line)
    expected_loss, expected = loss_and_gradients(exact, dict(pad_rows([rows()])))
    batch: dict[str, Any] = dict(flatten_rows([rows()]))
    on_gpu = {name: value if isinstance(value, list) else value.to(gpu) for name, value in batch.items()}
    loss, gradients = loss_and_gradients(ours, on_gpu, torch.bfloat16)
    assert loss == pytest.approx(expected_loss, rel=OF_LOSS)
    ours_whole, expected_whole = (
        torch.cat([each.float().cpu().flatten() for each in of]) for of in (gradients, expected)
    )
    assert relative(ours_whole, expected_whole) < OF_GRADIENTS


def relative(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result.cpu().double() - expected.cpu().double()).norm() / expected.cpu().double().norm())
