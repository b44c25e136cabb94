"""The types that a model is stored and computed in on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base_model.folder_contents import config_of, dtype_of_config

if TYPE_CHECKING:
    import torch


def dtype_named(name: str) -> torch.dtype:
    """Return the type of a name from config.json; float32 for others."""
    import torch

    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the type of a model's weights by its config.json."""
    return dtype_named(dtype_of_config(config_of(folder)))


def compute_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the type to compute in.

    float32 for weights in float32. For 16-bit weights bfloat16 if the hardware multiplies it; emulated, it would be
    slower than float32. Never float16: hidden states of Gemma 3 exceed its range.
    """
    import torch

    if stored == torch.float32:
        return torch.float32
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = any(capabilities.get(unit) for unit in ("avx512_bf16", "amx_bf16", "bf16"))  # "bf16" is Arm's
    return torch.bfloat16 if fast else torch.float32
