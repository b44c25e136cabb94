"""transformers' class names of layers whose forwards we may replace.

They come from the families that list them, for Liger's kernels and for `on_cpu`.
"""

from __future__ import annotations

from gemtune.families import FAMILIES

_FUSED = [family.fused for family in FAMILIES if family.fused is not None]
NORMS = {fused.norm for fused in _FUSED}
MLPS = {fused.mlp for fused in _FUSED}
ATTENTIONS = {fused.attention for fused in _FUSED}
LAYERS = {fused.layer for fused in _FUSED}
