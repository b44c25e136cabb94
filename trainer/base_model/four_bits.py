"""The layers with 4-bit weights (NF4) under QLoRA.

These are attention and MLP of the language model; other layers keep their type.
"""

from __future__ import annotations

import re

from gemtune.families.generation import LINEAR_LAYERS, Family
from trainer.base_model import vision_parts

_LAYER = re.compile(rf"(^|\.)layers\.\d+\.(self_attn|mlp)\.({'|'.join(LINEAR_LAYERS)})\.weight$")


def is_quantized(name: str) -> bool:
    """Return whether the weight of this name has 4 bits under QLoRA.

    name: as in a checkpoint.
    """
    return bool(_LAYER.search(name)) and not set(name.split(".")) & set(vision_parts.NAMES)


def skipped_modules(family: Family) -> list[str]:
    """Return bitsandbytes' list of the linear layers to leave unquantized.

    transformers compares the names with the beginning and the end of a module's path.
    """
    inside = [f"{place}{name}" for name in family.unquantized for place in ("", "model.", "model.language_model.")]
    return ["lm_head", *(f"model.{name}" for name in vision_parts.NAMES), *inside]
