"""Liger's kernels (Hsu et al., Liger Kernel, arXiv:2410.10989) in a Gemma on a GPU: a norm and the gated unit are
one kernel each instead of several, and keep less for backward."""

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
    """model: on a GPU, with or without an adapter, whose layers are called as before. Without liger_kernel nothing
    happens but a line in the log. Parts that are not Gemma's stay as they are, as do vision towers, the head and the
    loss.

    Instance by instance: Liger's own `apply_liger_kernel_to_gemma…` exchange the classes of transformers too, and with
    them those of every model that is loaded later, wherever it is."""
    try:
        from liger_kernel.ops import LigerGELUMulFunction, LigerRMSNormFunction
    except ImportError as error:
        log.warning("transformers' own norms and gated units are used: no Liger kernels (%s)", error)
        return
    for part in model.modules():
        kind, module = type(part).__name__, cast(Any, part)  # it meets a protocol by the name of its class
        if kind in NORMS:
            module.forward = partial(_norm, module, LigerRMSNormFunction)
        elif kind in MLPS and type(module.act_fn).__name__ == "GELUTanh":
            module.forward = partial(_mlp, module, LigerGELUMulFunction)


def _norm(module: Norm, function: type[torch.autograd.Function], x: torch.Tensor) -> torch.Tensor:
    """Gemma's norm multiplies by one more than its weight, in float32. Its gradient is not written over the given one:
    what that belongs to is not known here."""
    offset, casting, in_place = 1.0, "gemma", False
    found: torch.Tensor = function.apply(x, module.weight, module.eps, offset, casting, in_place, None)
    return found


def _mlp(module: GatedUnit, function: type[torch.autograd.Function], x: torch.Tensor) -> torch.Tensor:
    return module.down_proj(function.apply(module.gate_proj(x), module.up_proj(x)))
