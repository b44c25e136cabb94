"""Warnings about programs that do not load an adapter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemtune.request.training_config import TrainingConfig
from tests import tiny_gemma
from tests.trainer.model.test_added_lora import adapter_of
from trainer.steps.adapter_limits import adapter_limits

PLAIN = {"model_type": "gemma3_text"}
MIXTURE = {"model_type": "gemma4", "text_config": {"enable_moe_block": True}}
DENSE = {"model_type": "gemma4_unified", "text_config": {"attention_k_eq_v": True}}


@pytest.mark.parametrize(
    ("model_config", "training", "parts"),
    [
        (PLAIN, {}, []),
        ({"model_type": "gemma4", "text_config": {}}, {"use_rslora": True}, []),
        (PLAIN, {"use_dora": True}, ["DoRA"]),
        (PLAIN, {"train_embeddings": True}, ["the whole embedding"]),
        (PLAIN, {"new_tokens": ["<a>"], "use_dora": True}, ["PEFT only", "DoRA"]),
        ({"model_type": "gemma3"}, {"train_vision_tower": True}, ["--enable-tower-connector-lora"]),
        ({"model_type": "gemma3n"}, {"use_dora": True}, ["PEFT only"]),
        (MIXTURE, {}, ["llama.cpp converts no experts"]),
        (MIXTURE, {"target_modules": ["q_proj", "experts.down_proj"]}, ["--enable-mixed-moe-lora-format"]),
        (MIXTURE, {"target_modules": ["q_proj", "router.proj"]}, []),
        (DENSE, {}, ["leave k_proj out"]),
        (DENSE, {"target_modules": "all-linear", "use_dora": True}, ["leave k_proj out", "DoRA"]),
        (DENSE, {"target_modules": ["layers.5.self_attn.k_proj"]}, ["leave k_proj out"]),
        (DENSE, {"target_modules": ["q_proj", "v_proj"]}, []),
        ({"model_type": "gemma4"}, {"target_modules": ["layers.3.mlp.down_proj", "k_proj"]}, []),
        ({"model_type": "gemma4"}, {"target_modules": "all-linear"}, []),
        ({"model_type": "gemma4"}, {"target_modules": ["q_proj", "per_layer_projection"]}, []),
    ],
)
def test_each_limit_of_an_adapter_is_named(
    model_config: dict[str, Any], training: dict[str, Any], parts: list[str]
) -> None:
    config = TrainingConfig(base_model_id="google/gemma-3-1b-it", method="LoRA", **training)
    limits = list(adapter_limits(config, model_config))
    assert len(limits) == len(parts)
    assert all(part in limit for part, limit in zip(parts, limits, strict=True))


def test_the_large_models_of_gemma_4_share_keys_and_values(tmp_path: Path) -> None:
    """The others have projections of their own, as their tiny models do."""
    sharing = {}
    for shape in ("gemma4-e", "gemma4-dense", "gemma4-moe", "gemma4-unified"):
        model_config = json.loads((tiny_gemma.build(tmp_path / shape, shape) / "config.json").read_text())
        limits = adapter_limits(TrainingConfig(base_model_id="google/gemma-4-12B-it", method="LoRA"), model_config)
        sharing[shape] = any("k_proj" in limit for limit in limits)
    assert sharing == {"gemma4-e": False, "gemma4-dense": True, "gemma4-moe": True, "gemma4-unified": True}


@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "mlp.down_proj"], None])
def test_llama_cpp_converts_adapters_but_none_on_experts(
    tmp_path: Path, tools: Path, targets: list[str] | None
) -> None:
    """Convert both; once experts convert as well, change `experts_limit`."""
    converter = tools / "convert_lora_to_gguf.py"
    if not converter.is_file():
        pytest.skip("llama.cpp was built without its converter of adapters: remove its folder and run make llama")
    base = tiny_gemma.build(tmp_path / "base", "gemma4-moe")
    adapter = adapter_of(base, tmp_path / "adapter", lora_dropout=0.0, target_modules=targets)
    converted = tmp_path / "adapter.gguf"
    ran = subprocess.run(
        [sys.executable, str(converter), "--base", str(base), "--outfile", str(converted), str(adapter)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tools / "gguf-py"), str(tools)])},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    is_on_experts = targets is None
    assert (ran.returncode == 0) is not is_on_experts, ran.stderr
    assert converted.is_file() is not is_on_experts
    assert ("Can not map tensor 'model.layers.0.experts" in ran.stderr) is is_on_experts
