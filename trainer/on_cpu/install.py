"""Puts this package's functions into a loaded model, instance by instance, as Liger's are put into one on a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from trainer.on_cpu.adapted_linear import adapted
from trainer.on_cpu.attention import attended
from trainer.on_cpu.gated_unit import gated
from trainer.on_cpu.rms_norm import normalized
from trainer.on_cpu.rotary import turned

NORMS = {"GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm"}
MLPS = {"GemmaMLP", "Gemma2MLP", "Gemma3MLP"}
ATTENTIONS = {"GemmaAttention", "Gemma2Attention", "Gemma3Attention"}


def install(model: Any) -> None:
    """model: with a LoRA adapter on a frozen base. Parts that are not Gemma's, or of 4 bits, stay as they are."""
    from peft.tuners.lora import Linear

    for module in model.modules():
        kind = type(module).__name__
        if kind in NORMS and not module.weight.requires_grad:
            module.forward = partial(_norm, module)
        elif kind in MLPS and type(module.act_fn).__name__ == "GELUTanh":
            module.forward = partial(_mlp, module)
        elif kind in ATTENTIONS:
            module.forward = partial(_attention, module, module.forward)
        elif type(module) is Linear and _is_plain(module):
            module.forward = partial(_linear, module)


def is_installed(model: Any) -> bool:
    """Whether the linear layers are this package's, which decide about most of what is kept for backward."""
    return any(getattr(module.__dict__.get("forward"), "func", None) is _linear for module in model.modules())


def _is_plain(module: Any) -> bool:
    base = module.base_layer
    return (
        type(base) is torch.nn.Linear
        and base.bias is None
        and not base.weight.requires_grad
        and list(module.lora_A) == ["default"]
        and module.lora_B["default"].bias is None
        and not module.lora_variant
    )


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return normalized(x, module.weight, module.eps)


def _mlp(module: Any, x: torch.Tensor) -> Any:
    return module.down_proj(gated(module.gate_proj(x), module.up_proj(x)))


def _attention(
    module: Any, original: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any = None,
    past_key_values: Any = None, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Of rows that lie one after the other, as `row_attention` has them, tokens first. All others, and those that are
    longer than a sliding window or whose scores are capped, as they were."""
    rows, window = more.get("row_lengths"), getattr(module, "sliding_window", None)
    other = getattr(module, "attn_logit_softcapping", None) is not None or not module.is_causal
    if rows is None or other or module.attention_dropout or (window is not None and max(rows) > window):
        found: tuple[torch.Tensor, None] = original(
            hidden_states, position_embeddings, attention_mask, past_key_values=past_key_values, **more
        )
        return found
    query, key, value = (
        project(hidden_states).view(hidden_states.shape[1], -1, module.head_dim)
        for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    cos, sin = (angles[0, :, None, : module.head_dim // 2].to(query.dtype) for angles in position_embeddings)
    attention = attended(turned(query, cos, sin), turned(key, cos, sin), value, rows, module.scaling)
    return module.o_proj(attention.view(1, len(attention), -1)), None


def _linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    if module.disable_adapters or module.merged:
        return torch.nn.functional.linear(x, module.base_layer.weight)
    dropout = module.lora_dropout["default"]
    return adapted(
        x, module.base_layer.weight, module.lora_A["default"].weight, module.lora_B["default"].weight,
        scale=module.scaling["default"], dropout=getattr(dropout, "p", 0.0) if module.training else 0.0,
    )  # fmt: skip
