"""The choice of attention, FlashAttention's arguments, and the log lines.

Tests that need a GPU are in `tests/gpu/test_attention.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen

from gemtune.jobs.status import Step
from tests import tiny_gemma
from tests.trainer.conftest import Bench
from trainer.model import attention_report, gradient_checkpointing, loading, row_attention
from trainer.model.attention import flash_rows
from trainer.model.attention.choice import IMPLEMENTATIONS, Layers, Situation, choose
from trainer.model.on_cpu import install

SLIDING, GLOBAL, GLOBAL_OF_GEMMA_4, CAPPED = Layers(256, 1024), Layers(256), Layers(512), Layers(256, 4096, cap=50.0)
L4, H200, T4 = (Situation("cuda", capability, bits=16) for capability in ((8, 9), (9, 0), (7, 5)))
CPU, FUSED, PADDED = Situation("cpu"), Situation("cpu", is_fused=True), Situation("cpu", is_packed=False)
PADDED_ON_L4 = Situation("cuda", (8, 9), bits=16, is_packed=False)
WRONG = Situation("cuda", (9, 0), bits=16, flash_refusal="its results differ")
CPU_DEVICE = torch.device("cpu")


@pytest.mark.parametrize(
    ("layers", "situation", "name", "reason"),
    [
        (SLIDING, L4, "flash_rows", ""),
        (GLOBAL, H200, "flash_rows", ""),
        (GLOBAL_OF_GEMMA_4, H200, "sdpa_rows", "heads of at most 256 values"),
        (SLIDING, T4, "sdpa_rows", "needs a GPU of compute capability 8.0"),
        (SLIDING, Situation("cuda", (9, 0), bits=32), "sdpa_rows", "computes in 16 bits, and this training in 32"),
        (Layers(30), H200, "sdpa_rows", "in steps of 8"),
        (Layers(256, dropout=0.1), H200, "sdpa_rows", "no dropout"),
        (CAPPED, H200, "full_rows", "because no faster implementation caps scores"),
        (SLIDING, WRONG, "sdpa_rows", "its results differ"),
        (SLIDING, PADDED_ON_L4, "sdpa_masked", "are padded and need masks"),
        (CAPPED, PADDED_ON_L4, "eager_masked", "caps scores"),
        (SLIDING, CPU, "sdpa_rows", "adapters of Gemma 1, 2 and 3"),
        (SLIDING, FUSED, "fused_rows", ""),
        (CAPPED, FUSED, "full_rows", "caps scores"),
        (Layers(256, dropout=0.1), FUSED, "sdpa_rows", "no dropout"),
        (SLIDING, PADDED, "sdpa_masked", "are padded and need masks"),
        (SLIDING, Situation("mps"), "sdpa_rows", ""),
    ],
)
def test_the_fastest_correct_implementation_is_chosen(
    layers: Layers, situation: Situation, name: str, reason: str
) -> None:
    choice = choose(layers, situation)
    assert choice.implementation.name == name
    assert reason in str(choice)
    assert bool(choice.reasons) is bool(reason)


def test_every_implementation_is_the_choice_somewhere() -> None:
    situations = [L4, CPU, FUSED, PADDED]
    chosen = {choose(layers, each).implementation for layers in (SLIDING, CAPPED) for each in situations}
    assert chosen == set(IMPLEMENTATIONS)


def documented_varlen(*, window_of: Callable[[int], int] = lambda tokens: tokens) -> Callable[..., torch.Tensor]:
    """Return a function that does what `varlen_attn` is documented to do.

    window_of: the tokens before a token that are really visible, by the number requested.
    """

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        ends: torch.Tensor,
        key_ends: torch.Tensor,
        longest: int,
        longest_key: int,
        *,
        scale: float,
        window_size: tuple[int, int],
        enable_gqa: bool,
    ) -> torch.Tensor:
        assert ends.dtype == torch.int32
        assert ends is key_ends
        assert longest == longest_key == int(ends.diff().max())
        before, after = window_size
        assert after == 0
        assert enable_gqa
        pieces = []
        for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
            k, v = (tensor.repeat_interleave(len(q) // len(k), dim=0) for tensor in (k, v))
            distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
            visible = (distance >= 0) & ((distance <= window_of(before)) if before >= 0 else torch.tensor(True))
            scores = (q @ k.transpose(1, 2) * scale).masked_fill(~visible, -torch.inf)
            pieces.append((scores.softmax(dim=-1) @ v).transpose(0, 1))
        return torch.cat(pieces)

    return attend


@pytest.mark.parametrize("window", [None, 64, 16, 1])
def test_flash_attention_is_called_for_the_same_results_and_gradients(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", documented_varlen())
    generator, lengths = torch.Generator().manual_seed(0), [5, 40, 1, 17]
    drawn = [torch.randn(1, heads, sum(lengths), 32, generator=generator) for heads in (4, 2, 2)]
    results = []
    for attend in (flash_rows.attend, row_attention.attend):
        query, key, value = (tensor.clone().requires_grad_() for tensor in drawn)
        if attend is flash_rows.attend:
            attended = flash_rows.attend(query, key, value, lengths, 0.2, window)
        else:
            options: dict[str, Any] = {"row_lengths": lengths, "scaling": 0.2, "sliding_window": window}
            attended, _ = row_attention.attend(torch.nn.Identity(), query, key, value, None, **options)
        attended.square().sum().backward()
        results.append([attended.detach(), query.grad, key.grad, value.grad])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_sliding", [True, False])
def test_flash_attention_that_agrees_with_the_formula_is_used(
    monkeypatch: pytest.MonkeyPatch, is_sliding: bool
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", documented_varlen())
    assert flash_rows.refusal.__wrapped__(256, is_sliding, torch.bfloat16, CPU_DEVICE) is None


def test_flash_attention_with_another_window_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for shift in (-1, 1):
        monkeypatch.setattr(varlen, "varlen_attn", documented_varlen(window_of=lambda tokens, by=shift: tokens + by))
        refusal = flash_rows.refusal.__wrapped__(256, True, torch.bfloat16, CPU_DEVICE)
        assert refusal is not None
        assert "differ by" in refusal


def test_flash_attention_that_fails_is_not_used() -> None:
    """A CPU has no kernel for it."""
    refusal = flash_rows.refusal.__wrapped__(64, False, torch.bfloat16, CPU_DEVICE)
    assert refusal is not None
    assert "fails on this GPU" in refusal


def test_the_comparison_is_no_part_of_the_forward_pass_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check what checkpointing needs, which repeats what it has recorded."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            recorded.append(func)
            return func(*args, **(kwargs or {}))

    recorded: list[Any] = []
    monkeypatch.setattr(varlen, "varlen_attn", documented_varlen())
    state = torch.get_rng_state()
    with Recorder(), torch.no_grad():
        assert flash_rows.refusal.__wrapped__(64, True, torch.bfloat16, CPU_DEVICE) is None
    assert recorded == []
    assert torch.equal(torch.get_rng_state(), state)


def test_checkpointing_saves_the_results_of_flash_attention() -> None:
    assert str(torch.ops.torch_attn._varlen_attn.default) == gradient_checkpointing.FLASH_ROWS


def model_of(folder: Path, shape: str, attention: str | dict[str, str] = row_attention.NAME) -> Any:
    from transformers import AutoModelForCausalLM

    row_attention.register()
    return AutoModelForCausalLM.from_pretrained(tiny_gemma.build(folder / shape, shape), attn_implementation=attention)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("gemma", ["global layers (heads of 32): PyTorch's"]),
        ("gemma2", ["1 sliding layer (heads of 32, window of 64, scores capped at 50): all scores", "1 global layer"]),
        ("gemma3n-text", ["sliding layers (heads of 32, window of 64): PyTorch's", "global layers (heads of 32): Py"]),
        ("gemma4-e-text", ["sliding layers (heads of 32, window of 64): PyTorch's", "global layers (heads of 64): Py"]),
    ],
)
def test_there_is_a_line_for_each_kind_of_layers(tmp_path: Path, shape: str, expected: list[str]) -> None:
    lines = attention_report.lines(model_of(tmp_path, shape), torch.float32, "huggingface")
    assert len(lines) == len(expected)
    for line, part in zip(sorted(lines, key=lambda line: "global" in line), expected, strict=True):
        assert part in line
        assert "because" in line


@pytest.mark.parametrize("shape", ["gemma2", "gemma3"])
def test_the_line_of_padded_rows_is_what_transformers_was_told(tmp_path: Path, shape: str) -> None:
    attention = loading.masked_attention(tiny_gemma.build(tmp_path / "folder", shape))
    assert attention == ("eager" if shape == "gemma2" else "sdpa")
    lines = attention_report.lines(model_of(tmp_path, shape, attention), torch.float32, "huggingface")
    assert lines
    assert all(("all scores in full" if shape == "gemma2" else "scaled_dot_product") in line for line in lines)
    assert all("with masks" in line for line in lines)


def test_attention_that_another_library_chose_is_named(tmp_path: Path) -> None:
    lines = attention_report.lines(model_of(tmp_path, "gemma3", "eager"), torch.float32, "unsloth")
    assert lines
    assert all("transformers' eager, which is not gemtune's choice" in line for line in lines)


def test_a_training_logs_the_attention_that_it_uses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters have gemtune's own attention, and Full has PyTorch's.

    Some rows are longer than the window.
    """
    called: list[str] = []

    def counted(name: str, attend: Callable[..., Any]) -> Callable[..., Any]:
        def attend_and_count(*arguments: Any, **options: Any) -> Any:
            called.append(name)
            return attend(*arguments, **options)

        return attend_and_count

    monkeypatch.setattr(install, "attend", counted("gemtune", install.attend))
    monkeypatch.setattr(row_attention, "_attend_row", counted("PyTorch", row_attention._attend_row))
    base = tiny_gemma.build(tmp_path / "base")
    caplog.set_level("INFO", logger="trainer")
    for method, used in (("LoRA", "gemtune's own for a CPU"), ("Full", "PyTorch's scaled_dot_product_attention, row")):
        caplog.clear()
        called.clear()
        Bench(tmp_path / method, base, method=method, max_steps=1).to(Step.TRAIN)
        lines = [line for line in caplog.messages if line.startswith("attention of")]
        assert lines
        assert all(used in line for line in lines), lines
        assert set(called) == ({"PyTorch"} if method == "Full" else {"PyTorch", "gemtune"})
