"""Liger's fused kernels for a Gemma on a GPU.

Liger Kernel (Hsu et al., arXiv:2410.10989) computes a norm, and a gated unit, in one kernel instead of several, and
saves less for backward.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from trainer.base_model.class_names import MLPS, NORMS
from trainer.base_model.gemma_layers import GatedUnit, Norm

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel

log = logging.getLogger(__name__)


def install(model: LanguageModel) -> None:
    """Replace the forwards of norms and gated units by Liger's kernels.

    model: on a GPU, with or without an adapter. Only Gemma's norms and MLPs change; vision towers, head and loss stay.
    Without liger_kernel the model stays as it is, with a warning in the log.

    Forwards are replaced per instance: Liger's own `apply_liger_kernel_to_gemma…` replaces classes of transformers, and
    with them every model that this process loads later.
    """
    try:
        from liger_kernel.ops import LigerGELUMulFunction, LigerRMSNormFunction
    except ImportError as error:
        log.warning("transformers' own norms and gated units are used: no Liger kernels (%s)", error)
        return
    for part in model.modules():
        kind, module = type(part).__name__, cast(Any, part)  # the class name says which protocol it implements
        if kind in NORMS:
            module.forward = partial(_norm, module, LigerRMSNormFunction)
        elif kind in MLPS and type(module.act_fn).__name__ == "GELUTanh":
            module.forward = partial(_mlp, module, LigerGELUMulFunction)


def _norm(module: Norm, function: type[torch.autograd.Function], x: torch.Tensor) -> torch.Tensor:
    """Replace the forward of Gemma's RMSNorm. x: (..., width).

    Gemma scales by 1 + weight (`offset`), in float32 (`casting`). `in_place` would let backward overwrite the incoming
    gradient, which other functions may still read.
    """
    offset, casting, in_place = 1.0, "gemma", False
    normalized: torch.Tensor = function.apply(x, module.weight, module.eps, offset, casting, in_place, None)
    return normalized


def _mlp(module: GatedUnit, function: type[torch.autograd.Function], x: torch.Tensor) -> torch.Tensor:
    """Replace the forward of Gemma's MLP. x: (..., width)."""
    return module.down_proj(function.apply(module.gate_proj(x), module.up_proj(x)))
