"""In how many bits a model is computed on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base_model.folder_contents import config_of

if TYPE_CHECKING:
    import torch


def stored_dtype(folder: Path) -> torch.dtype:
    """The type of a model's weights by its config.json, where both names of the field have been in use."""
    import torch

    config = config_of(folder)
    text = config.get("text_config")
    parts = (config, text) if isinstance(text, dict) else (config,)
    names = (part.get(field) for part in parts for field in ("dtype", "torch_dtype"))
    found = getattr(torch, str(next((name for name in names if name), "float32")), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """float32 for weights in float32. For 16 bits bfloat16 where the hardware multiplies it; elsewhere it would be
    slower than float32. Never float16: hidden states of Gemma 3 leave its range."""
    import torch

    if stored == torch.float32:
        return torch.float32
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        known = torch.cpu.get_capabilities()
        fast = any(known.get(unit) for unit in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one is Arm's
    return torch.bfloat16 if fast else torch.float32
