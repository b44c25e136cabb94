"""Compiled loops of numba: exact results, NaN and infinity included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.model.on_cpu import compiled, loops

INF, NAN = float("inf"), float("nan")


def every_bfloat16() -> torch.Tensor:
    return torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)


def same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether two tensors are equal, where all NaNs count as equal."""
    return torch.equal(actual.isnan(), expected.isnan()) and torch.equal(
        actual[~actual.isnan()], expected[~expected.isnan()]
    )


def nearest(exact: torch.Tensor) -> torch.Tensor:
    """Round as PyTorch does."""
    return exact.to(torch.bfloat16)


def test_every_bfloat16_is_read_and_written_as_by_pytorch() -> None:
    """A rotation by angle zero computes x * 1 - x * 0."""
    x = every_bfloat16()[: 2**15].view(-1, 1, 64)  # the non-negative ones
    ones = torch.ones(len(x), 1, 32, dtype=torch.bfloat16)
    assert same(loops.rotate(x, ones, 0 * ones), nearest(x.float() * 1 + torch.where(x.isfinite(), 0, NAN)))


def test_ties_go_to_even_and_overflow_to_infinity() -> None:
    x = torch.randn(4096, 2, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).repeat_interleave(32, 1)
    x[0] = torch.finfo(torch.bfloat16).max
    factor = 1 + torch.arange(64) * 2.0**-9  # products halfway between two bfloat16 numbers
    inverse = torch.ones(len(x), 1)
    assert same(loops.rms_norm_from_inverse(x, inverse, factor), nearest(x.float() * factor))
    assert loops.rms_norm_from_inverse(x, 2 * inverse, factor)[0].isinf().all()


def test_gelu_is_accurate_for_every_bfloat16() -> None:
    gate = every_bfloat16()
    actual = loops.gated_gelu(gate, torch.ones_like(gate)).double()
    exact = gate.double() * torch.sigmoid(1.5957691216057308 * (gate.double() + 0.044715 * gate.double() ** 3))
    finite = gate.abs() < 1e18  # beyond it x^2 overflows float32, in PyTorch too
    assert torch.allclose(actual[finite], exact[finite], rtol=2.0**-8, atol=1e-18)
    assert actual[gate.isnan()].isnan().all()
    assert actual[gate == INF].item() == INF


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_nan_and_infinity_are_not_hidden(bad: float) -> None:
    x, factor = torch.ones(3, 64, dtype=torch.bfloat16), torch.ones(64)
    x[1, 5] = bad
    out, inverse = loops.rms_norm(x, factor, 1e-6)
    assert out[1, 5].isnan()
    assert torch.equal(out[[0, 2]], x[[0, 2]])
    gradient = loops.rms_norm_backward(torch.ones_like(x), x, inverse, factor)
    assert gradient[1].isnan().any()
    assert not gradient[0].isnan().any()


def test_shares_are_those_of_a_softmax_including_earlier_blocks() -> None:
    """The shares replace the logits, and include the sums of other blocks."""
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(5, 48, generator=generator) * 6).bfloat16()
    logits[2, 7] = -INF
    logits[3] -= 200  # below the range of float32
    own, before = torch.rand(5, generator=generator) + 0.5, torch.rand(5, generator=generator)
    powers = logits.double().exp()
    expected = powers / (own + before + powers.sum(1)).unsqueeze(1)
    rest = before.clone()
    largest, total = loops.softmax_shares(logits, own, rest)
    torch.testing.assert_close(rest.double(), before + powers.sum(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(logits.double(), expected, rtol=2.0**-8, atol=1e-38)
    torch.testing.assert_close(largest.double(), expected.amax(0), rtol=1e-5, atol=1e-38)
    torch.testing.assert_close(total.double(), expected.sum(0), rtol=1e-5, atol=1e-38)
    assert logits[2, 7] == 0


@pytest.mark.parametrize(("bad", "expected"), [(NAN, NAN), (INF, INF), (89.0, INF)])
def test_a_sum_of_powers_shows_nan_and_overflow(bad: float, expected: float) -> None:
    logits = torch.zeros(3, 40, dtype=torch.bfloat16)
    logits[1, 5] = bad
    rest = torch.zeros(3)
    loops.softmax_shares(logits, torch.ones(3), rest)
    assert torch.equal(rest.nan_to_num(nan=-1), torch.tensor([40, expected, 40]).nan_to_num(nan=-1))


def test_sums_of_powers_match_an_exact_computation() -> None:
    logits = (torch.randn(5, 48, generator=torch.Generator().manual_seed(1)) * 6).bfloat16()
    logits[2, 7] = -INF
    logits[3] -= 200
    before, exact = logits.clone(), logits.double()
    powers, along = loops.exp_sums(logits)
    torch.testing.assert_close(powers.double(), exact.exp().sum(1), rtol=1e-5, atol=1e-37)
    expected = (exact.exp() * exact.clamp_min(-1e3)).sum(1)
    torch.testing.assert_close(along.double(), expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(logits, before)


def test_products_with_a_vector_are_summed_in_32_bits() -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(300, 500, generator=generator).bfloat16()
    left, right = torch.randn(300, generator=generator), torch.randn(500, generator=generator)
    torch.testing.assert_close(loops.matrix_vector(matrix, right), matrix.float() @ right, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loops.vector_matrix(left, matrix), left @ matrix.float(), rtol=1e-4, atol=1e-4)


def test_loops_are_used_only_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.ones(2, dtype=torch.bfloat16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert compiled.loops_for(small) is loops
    assert compiled.loops_for(small.float()) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert compiled.loops_for(small) is None


def test_without_numba_pytorch_is_used() -> None:
    program = """
import sys; sys.modules["numba"] = None; sys.meta_path.insert(0, type("No", (), {"find_spec": lambda *_: None})())
import importlib.util; importlib.util.find_spec = lambda name: None
import torch; torch.set_num_threads(1)
from trainer.model.on_cpu.rms_norm import rms_norm
print(rms_norm(torch.full((2, 4), 3.0, dtype=torch.bfloat16), torch.zeros(4), 0.0).tolist())
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == str([[1.0] * 4] * 2)


def test_a_read_only_cache_does_not_stop_a_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    program = """
import torch
from trainer.model.on_cpu import loops
ones = torch.ones(2, 4, dtype=torch.bfloat16)
print(loops.rms_norm_from_inverse(ones, torch.ones(2, 1), torch.full((4,), 2.0)).tolist())
"""
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    completed = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=env | {"GEMTUNE_CACHE": str(tmp_path / "file" / "cache"), "TMPDIR": str(tmp_path)},
    )
    assert completed.stdout.strip() == str([[2.0] * 4] * 2)
    assert list(tmp_path.glob("gemtune-numba-*/*"))
