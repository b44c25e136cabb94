"""Programs that cannot load an adapter as it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gemtune import families
from gemtune.request.training_config import TrainingConfig


def adapter_limits(config: TrainingConfig, model_config: Mapping[str, Any]) -> Iterator[str]:
    """Yield in sentences which programs do not load a training's adapter.

    model_config: config.json of the base model. The limits of vLLM are those of the source of its version 0.33.0, which
    was read and not run: vllm.lora.peft_helper refuses DoRA and whole modules; vllm.lora.model_manager leaves towers
    without adapters by default, refuses those on experts unless it is told of them, and adapts keys alone by k_proj,
    also where vllm.model_executor.models.gemma4 copies its weights for the values. It adapts every other linear layer.
    """
    family_and_type = families.of_config(model_config)
    without_vllm = None if family_and_type is None else family_and_type[1].why_no_vllm_adapter
    if without_vllm is not None:
        yield f"the exported adapter loads in PEFT only: {without_vllm}"
        return
    if (of_experts := families.experts_limit(model_config, config.target_modules)) is not None:
        yield f"not every program loads an adapter on experts as it is: {of_experts}"
    if families.has_values_of_keys(model_config) and _is_on(config, "k_proj"):
        yield (
            "vLLM 0.33 leaves out what the exported adapter changes in the values of global layers, which k_proj "
            "computes with the keys: leave k_proj out of target_modules for an adapter that it loads whole"
        )
    if config.new_tokens is not None:
        yield "the exported adapter loads in PEFT only: it contains rows of the embedding, for new tokens"
    if config.train_embeddings:
        yield "vLLM refuses the exported adapter: it contains the whole embedding"
    if config.use_dora:
        yield "vLLM refuses the exported adapter: it is one of DoRA"
    if config.train_vision_tower:
        yield "vLLM reads the adapter of the vision tower only with --enable-tower-connector-lora"


def _is_on(config: TrainingConfig, layer: str) -> bool:
    """Return whether an adapter is on layers of this name."""
    return config.target_modules is None or any(name.rpartition(".")[2] == layer for name in config.target_modules)
