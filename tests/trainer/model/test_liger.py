"""Liger's kernels in a model; formulas in plain PyTorch replace them on a CPU."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu

from gemtune.request.spec import Spec
from gemtune.request.training_config import TrainingConfig
from tests import tiny_gemma
from trainer.model import liger
from trainer.model.engines import huggingface

FAMILIES = ("gemma", "gemma2", "gemma3")
NORMS_PER_LAYER = {"gemma": 2, "gemma2": 4, "gemma3": 6}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Install stand-ins for Liger's kernels; count the calls of each."""
    counts: Counter[str] = Counter()

    def norm(x: Any, weight: Any, eps: float, offset: float, casting: str, in_place: bool, mode: None) -> Any:
        assert (offset, casting, in_place, mode) == (1.0, "gemma", False, None)
        counts["norm"] += 1
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (offset + weight)

    def gelu_times(gate: Any, up: Any) -> Any:
        counts["mlp"] += 1
        return gelu(gate, approximate="tanh") * up

    modules = {name: ModuleType(name) for name in ("liger_kernel", "liger_kernel.ops")}
    vars(modules["liger_kernel.ops"]).update(
        LigerGELUMulFunction=SimpleNamespace(apply=gelu_times), LigerRMSNormFunction=SimpleNamespace(apply=norm)
    )
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return counts


def load_model(folder: Path, **training: Any) -> Any:
    """Load a model in float32, without the engine's layers for a CPU."""
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
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach()} | gradients


@pytest.mark.parametrize("method", ["LoRA", "Full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gemma_computes_the_same_with_ligers_kernels(
    tmp_path: Path, family: str, method: str, calls: Counter[str]
) -> None:
    model = load_model(tiny_gemma.build(tmp_path / "model", family), method=method)
    plain = loss_and_gradients(model)
    assert not calls
    liger.install(model)
    with_liger = loss_and_gradients(model)
    layers = model.config.num_hidden_layers
    assert calls == {"norm": NORMS_PER_LAYER[family] * layers + 1, "mlp": layers}
    assert with_liger.keys() == plain.keys()
    assert any(("lora_A" in name and "gate_proj" in name) == (method == "LoRA") for name in with_liger)
    for name, value in plain.items():
        torch.testing.assert_close(with_liger[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_vision_tower_is_not_changed(tmp_path: Path, calls: Counter[str]) -> None:
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(tiny_gemma.build(tmp_path / "model", "gemma3-vision"))
    liger.install(model)
    assert not any("forward" in vars(module) for module in model.model.vision_tower.modules())
    assert "forward" in vars(model.model.language_model.norm)


def test_a_model_of_another_family_is_not_changed(calls: Counter[str]) -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.RMSNorm(4))
    liger.install(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_nothing_changes_without_the_package_or_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    folder = tiny_gemma.build(tmp_path / "model")
    loss_and_gradients(load_model(folder, method="Full"))
    assert not calls  # the engine does not install Liger for a CPU
    model = load_model(folder, method="Full")
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    monkeypatch.delitem(sys.modules, "liger_kernel.ops")
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", None)
    liger.install(model)
    assert not any("forward" in vars(module) for module in model.modules())
