"""Programs that cannot load an adapter as it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gemtune import families
from gemtune.families.generation import LINEAR_LAYERS
from gemtune.request.training_config import TrainingConfig


def adapter_limits(config: TrainingConfig, model_config: Mapping[str, Any]) -> Iterator[str]:
    """Yield in sentences which programs do not load a training's adapter.

    model_config: config.json of the base model. The limits of vLLM are those of its version 0.33: its module
    vllm.lora.peft_helper refuses DoRA and whole modules, and vllm.lora.model_manager leaves towers without adapters by
    default. That it drops other layers than those of attention and MLP was reported of its Gemma 4, and
    that it does not start with an adapter of a mixture of experts; neither was tried.
    """
    of_model = families.adapter_limits(model_config, config.target_modules)
    if of_model is not None:
        yield f"the exported adapter loads in PEFT only: {of_model}"
        return
    if families.has_experts(model_config):
        yield "vLLM may not start with an adapter of a mixture of experts"
    others = [name for name in config.target_modules or () if name.rpartition(".")[2] not in LINEAR_LAYERS]
    if others:
        usual = "leave them out of target_modules for an adapter that it loads whole"
        yield f"vLLM may drop what the exported adapter has on {', '.join(others)}: {usual}"
    if config.new_tokens is not None:
        yield "the exported adapter loads in PEFT only: it contains rows of the embedding, for new tokens"
    if config.train_embeddings:
        yield "vLLM refuses the exported adapter: it contains the whole embedding"
    if config.use_dora:
        yield "vLLM refuses the exported adapter: it is one of DoRA"
    if config.train_vision_tower:
        yield "vLLM reads the adapter of the vision tower only with --enable-tower-connector-lora"
