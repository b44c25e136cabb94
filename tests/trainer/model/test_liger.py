"""Liger's kernels in a model. They need a GPU: here plain formulas stand in for them, under their names."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu

from gemtune.request.spec import Spec, TrainingConfig
from tests import tiny_gemma
from trainer.model import liger
from trainer.model.engines import huggingface

FAMILIES = ("gemma", "gemma2", "gemma3")
NORMS_A_LAYER = {"gemma": 2, "gemma2": 4, "gemma3": 6}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often which stand-in was called."""
    calls: Counter[str] = Counter()

    def norm(x: Any, weight: Any, eps: float, offset: float, casting: str, in_place: bool, mode: None) -> Any:
        assert (offset, casting, in_place, mode) == (1.0, "gemma", False, None)
        calls["norm"] += 1
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (offset + weight)

    def gelu_times(gate: Any, up: Any) -> Any:
        calls["mlp"] += 1
        return gelu(gate, approximate="tanh") * up

    modules = {name: ModuleType(name) for name in ("liger_kernel", "liger_kernel.ops")}
    vars(modules["liger_kernel.ops"]).update(
        LigerGELUMulFunction=SimpleNamespace(apply=gelu_times), LigerRMSNormFunction=SimpleNamespace(apply=norm)
    )
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def loaded(folder: Path, **training: Any) -> Any:
    """float32; what the engine puts into it for a CPU is taken out again."""
    config = TrainingConfig.model_validate({"base_model_id": "google/gemma-3-270m", "lora_dropout": 0.0} | training)
    torch.manual_seed(1)
    model = huggingface.load(folder, Spec(processed_dataset_id="chats", training_config=config)).model.float()
    for module in model.modules():
        module.__dict__.pop("forward", None)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


def loss_and_gradients(model: Any) -> dict[str, torch.Tensor]:
    tokens = torch.arange(3, 43).view(2, 20)
    model.zero_grad()
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach()} | found


@pytest.mark.parametrize("method", ["LoRA", "Full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gemma_computes_the_same_by_other_functions(
    tmp_path: Path, family: str, method: str, called: Counter[str]
) -> None:
    model = loaded(tiny_gemma.build(tmp_path / "model", family), method=method)
    plain = loss_and_gradients(model)
    assert not called
    liger.install(model)
    found = loss_and_gradients(model)
    layers = model.config.num_hidden_layers
    assert called == {"norm": NORMS_A_LAYER[family] * layers + 1, "mlp": layers}
    assert found.keys() == plain.keys()
    assert any(("lora_A" in name and "gate_proj" in name) == (method == "LoRA") for name in found)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_what_sees_stays_as_it_was(tmp_path: Path, called: Counter[str]) -> None:
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(tiny_gemma.build(tmp_path / "model", "gemma3-vision"))
    liger.install(model)
    assert not any("forward" in vars(module) for module in model.model.vision_tower.modules())
    assert "forward" in vars(model.model.language_model.norm)


def test_a_model_that_is_no_gemma_stays_as_it_was(called: Counter[str]) -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.RMSNorm(4))
    liger.install(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_without_the_package_and_on_a_cpu_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: Counter[str]
) -> None:
    folder = tiny_gemma.build(tmp_path / "model")
    loss_and_gradients(loaded(folder, method="Full"))
    assert not called  # the engine does not put it into a model on a CPU
    model = loaded(folder, method="Full")
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.delitem(sys.modules, "liger_kernel.ops")
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", None)
    liger.install(model)
    assert not any("forward" in vars(module) for module in model.modules())
