"""Choice of the layers that get a LoRA adapter.

They are the attention and MLP layers of the language model, the experts of a mixture, and on request the vision tower;
never routers, per-layer inputs, embeddings or the head.
"""

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
    """Return PEFT's `target_modules`: names of layers, or a pattern.

    A pattern is needed where vision or audio towers have layers of the same names.
    """
    if not vision_parts.modules_of(model):
        return list(LINEAR_LAYERS)
    language = rf"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LINEAR_LAYERS)})"
    if not vision_tower:
        return language
    from torch.nn import Linear

    paths = [name.split(".") for name, layer in model.named_modules() if isinstance(layer, Linear)]
    last_names = sorted({path[-1] for path in paths if "vision_tower" in path})
    return rf"({language}|model\.vision_tower\..*\.({'|'.join(last_names)}))"


def target_parameters(model: PreTrainedModel) -> list[str] | None:
    """Return PEFT's `target_parameters`: a mixture's experts, or None."""
    family = of_model_type(model.config.model_type)
    if family is None:
        return None
    names = [name for name, _ in model.named_parameters()]
    return [expert for expert in family.experts if any(name.endswith(f".{expert}") for name in names)] or None


def adapter_dropout(requested: float, experts: list[str] | None) -> float:
    """Return the dropout of an adapter, which is 0 on a mixture of experts.

    PEFT adds an expert's LoRA update to its weights (`target_parameters`), which leaves no activation to drop. experts:
    from `target_parameters`.
    """
    if experts is not None and requested > 0:
        log.info("lora_dropout is 0 instead of %g: adapters on experts do not support dropout", requested)
        return 0.0
    return requested
