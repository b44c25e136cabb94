"""The layers that are of 4 bits (NF4) where a model is: attention and MLP of its language model."""

from __future__ import annotations

import re

from gemtune.families.generation import LINEAR_LAYERS, Family
from trainer.base_model import vision_parts

_LAYER = re.compile(rf"(^|\.)layers\.\d+\.(self_attn|mlp)\.({'|'.join(LINEAR_LAYERS)})\.weight$")


def is_quantized(name: str) -> bool:
    """Whether the weight of this name, in a checkpoint, is of 4 bits."""
    return bool(_LAYER.search(name)) and not set(name.split(".")) & set(vision_parts.NAMES)


def skipped_modules(family: Family) -> list[str]:
    """All other linear layers: transformers compares these with the beginning of a module's path, and with its end."""
    inside = [f"{place}{name}" for name in family.unquantized for place in ("", "model.", "model.language_model.")]
    return ["lm_head", *(f"model.{name}" for name in vision_parts.NAMES), *inside]
