"""Classes of transformers that families name.

NORMS, MLPS, ATTENTIONS and LAYERS are the names of those whose forwards Liger's kernels and `on_cpu` may replace.
"""

from __future__ import annotations

import importlib
from typing import Any

from gemtune.families import FAMILIES

_FUSED = [family.fused for family in FAMILIES if family.fused is not None]
NORMS = {fused.norm for fused in _FUSED}
MLPS = {fused.mlp for fused in _FUSED}
ATTENTIONS = {fused.attention for fused in _FUSED}
LAYERS = {fused.layer for fused in _FUSED}


def class_of_models(path: str) -> Any:
    """Return a class by its path below `transformers.models`.

    Such as `siglip.image_processing_pil_siglip.SiglipImageProcessorPil`.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)
