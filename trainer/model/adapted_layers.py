"""The layers that an adapter changes: attention and MLP of the language model, experts of a mixture, and on request the
vision tower. Never routers, per-layer inputs, embeddings or the head."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gemtune.families import of_model_type
from gemtune.families.generation import LINEAR_LAYERS
from trainer.base_model import vision_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def target_modules(model: PreTrainedModel, *, vision_tower: bool) -> list[str] | str:
    """PEFT's `target_modules`: names of layers, or a pattern for a model that has others of these names elsewhere."""
    if not vision_parts.of(model):
        return list(LINEAR_LAYERS)
    language = rf"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LINEAR_LAYERS)})"
    if not vision_tower:
        return language
    from torch.nn import Linear

    paths = [name.split(".") for name, layer in model.named_modules() if isinstance(layer, Linear)]
    last_names = sorted({path[-1] for path in paths if "vision_tower" in path})
    return rf"({language}|model\.vision_tower\..*\.({'|'.join(last_names)}))"


def target_parameters(model: PreTrainedModel) -> list[str] | None:
    """PEFT's `target_parameters`: the experts of a mixture, None where there are none."""
    family = of_model_type(model.config.model_type)
    if family is None:
        return None
    names = [name for name, _ in model.named_parameters()]
    return [expert for expert in family.experts if any(name.endswith(f".{expert}") for name in names)] or None


def dropout(asked: float, experts: list[str] | None) -> float:
    """The dropout of an adapter: on a mixture of experts 0, since PEFT adds an expert's adapter to its weights instead
    of to its output."""
    if experts is not None and asked > 0:
        log.info("lora_dropout is 0 instead of %g: an adapter on experts knows none", asked)
        return 0.0
    return asked
