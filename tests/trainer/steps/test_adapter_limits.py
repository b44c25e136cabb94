"""Warnings about programs that do not load an adapter."""

from __future__ import annotations

from typing import Any

import pytest

from gemtune.request.training_config import TrainingConfig
from trainer.steps.adapter_limits import adapter_limits

PLAIN = {"model_type": "gemma3_text"}
MIXTURE = {"model_type": "gemma4", "text_config": {"enable_moe_block": True}}


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
        (MIXTURE, {}, ["PEFT only"]),
        (MIXTURE, {"target_modules": ["q_proj", "experts.down_proj"]}, ["PEFT only"]),
        (MIXTURE, {"target_modules": ["q_proj"]}, ["may not start"]),
        (MIXTURE, {"target_modules": ["q_proj", "router.proj"]}, ["may not start", "on router.proj: leave them out"]),
        ({"model_type": "gemma4"}, {"target_modules": ["layers.3.mlp.down_proj", "k_proj"]}, []),
        ({"model_type": "gemma4"}, {"target_modules": "all-linear"}, []),
        ({"model_type": "gemma4"}, {"target_modules": ["q_proj", "per_layer_projection"]}, ["on per_layer_projection"]),
    ],
)
def test_each_limit_of_an_adapter_is_named(
    model_config: dict[str, Any], training: dict[str, Any], parts: list[str]
) -> None:
    config = TrainingConfig(base_model_id="google/gemma-3-1b-it", method="LoRA", **training)
    limits = list(adapter_limits(config, model_config))
    assert len(limits) == len(parts)
    assert all(part in limit for part, limit in zip(parts, limits, strict=True))
