"""Packed rows: each row's results equal those of the row alone.

This holds in every family, and for rows longer than the sliding window.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import tiny_gemma
from trainer.model import gradient_checkpointing, row_attention
from trainer.model.hidden_states import head_inputs
from trainer.model.loss_head import cross_entropy_sum
from trainer.rows.packing import packs
from trainer.training.batches import flatten_rows, pad_rows

LENGTHS = (5, 90, 17, 40)  # the tiny models' window is 64


def rows() -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(10, 400, (length,), generator=generator).tolist() for length in LENGTHS]
    return [{"input_ids": row, "labels": [-100] * 3 + row[3:]} for row in ids]


def loss_and_gradients(
    model: Any, batch: dict[str, Any], dtype: torch.dtype = torch.float32
) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    states = head_inputs(model, batch, dtype)
    loss = cross_entropy_sum(states.hidden, states.head, states.targets, soft_cap=states.soft_cap)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_a_packed_batch_has_the_loss_and_gradients_of_its_rows_alone(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_gemma.build(tmp_path / family, family)
    alone = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    losses, gradients = [], None
    for row in rows():
        loss, row_gradients = loss_and_gradients(alone, pad_rows([[row]]))
        losses.append(loss)
        gradients = (
            row_gradients if gradients is None else [a + b for a, b in zip(gradients, row_gradients, strict=True)]
        )
    row_attention.register()
    together = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=row_attention.NAME)
    loss, row_gradients = loss_and_gradients(together, flatten_rows([rows()[:2], rows()[2:]]))
    assert loss == pytest.approx(sum(losses), rel=1e-5)
    assert gradients is not None
    for expected, actual in zip(gradients, row_gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=2e-5)


def test_packs_contain_every_row_once_and_are_never_too_long() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 100, (500,), generator=generator).tolist()
    packed = packs(lengths, 100)
    assert sorted(row for pack in packed for row in pack) == list(range(500))
    assert max(sum(lengths[row] for row in pack) for pack in packed) <= 100
    assert len(packed) <= 1.1 * sum(lengths) / 100
    assert packs(lengths, 100) == packed
    assert packs([], 100) == []


def test_gradient_checkpointing_gives_the_same_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(gradient_checkpointing, "MIN_SAVED_SIDE", 32)  # matrices of the tiny model are larger
    row_attention.register()
    folder = tiny_gemma.build(tmp_path / "tiny")
    results = []
    for checkpointing in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=row_attention.NAME).train()
        if checkpointing:
            kwargs = {"use_reentrant": False, "context_fn": gradient_checkpointing.keep_products}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
        results.append(loss_and_gradients(model, flatten_rows([rows()])))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_only_large_trainings_use_gradient_checkpointing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_gemma.build(tmp_path / "tiny"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    assert gradient_checkpointing.checkpointing_kwargs(model, tokens=1000) is None
    assert gradient_checkpointing.checkpointing_kwargs(model, tokens=1_000_000) == {"use_reentrant": False}
    assert gradient_checkpointing.checkpointing_kwargs(model, tokens=1000, always=True) == {"use_reentrant": False}
    needed = gradient_checkpointing.activation_bytes(model, 1_000_000)
    for share in (0.24, 0.26):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=needed / share: SimpleNamespace(available=free))
        assert (gradient_checkpointing.checkpointing_kwargs(model, tokens=1_000_000) is None) == (share < 0.25)
