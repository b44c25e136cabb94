"""The layers with 4-bit weights (NF4) under QLoRA.

These are attention and MLP of the language model; other layers keep their type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gemtune.families.generation import LINEAR_LAYERS, Family
from trainer.base_model import vision_parts

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

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


def quantization_config(dtype: torch.dtype, family: Family) -> BitsAndBytesConfig:
    """Return the configuration of NF4 with double quantization.

    As in Dettmers et al., QLoRA, arXiv:2305.14314. dtype: the type to compute in.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped_modules(family),  # applies to 4 bits too, despite its name
    )


# Sizes of the blocks of a weight that bitsandbytes repacks: rows, and columns, which are NF4's own blocks.
_PACKED_ROWS, _PACKED_COLUMNS = 32, 64


def keep_unpacked(model: torch.nn.Module, *, uneven_only: bool) -> None:
    """Keep bitsandbytes from repacking weights at the first forward pass.

    On CPUs with AVX512-BF16 it repacks them for good when no gradient is needed, for a product that has none and takes
    whole blocks only: it fails for layers of other sizes. uneven_only: keep only those as they are.
    """
    layer: Any  # only layers of bitsandbytes have this attribute
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            is_even = layer.out_features % _PACKED_ROWS == 0 and layer.in_features % _PACKED_COLUMNS == 0
            if not (uneven_only and is_even):
                layer.support_avx512bf16_for_cpu = False
