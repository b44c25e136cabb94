"""Puts this package's functions into a loaded model, instance by instance, as Liger's are put into one on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from trainer.base_model.class_names import ATTENTIONS, LAYERS, MLPS, NORMS
from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.adapted_linear import Layer, adapted
from trainer.model.on_cpu.attention import attended
from trainer.model.on_cpu.gated_unit import gated
from trainer.model.on_cpu.rms_norm import normalized
from trainer.model.on_cpu.rotary import turned


def install(model: Any) -> None:
    """model: with a LoRA adapter on a frozen base. Parts that are not Gemma's, or of 4 bits, stay as they are."""
    from peft.tuners.lora import Linear

    last = model.config.get_text_config().num_hidden_layers - 1
    for module in model.modules():
        kind = type(module).__name__
        if kind in NORMS and not module.weight.requires_grad:
            module.forward = partial(_norm, module)
        elif kind in MLPS and type(module.act_fn).__name__ == "GELUTanh":
            module.forward = partial(_mlp, module)
        elif kind in ATTENTIONS:
            module.forward = partial(_attention, module, module.forward)
        elif kind in LAYERS and module.self_attn.layer_idx == last:
            module.forward = partial(_last_layer, module, module.forward)
        elif kind in LAYERS and _has_norms_on_both_sides(module):
            module.forward = partial(_layer, module)
        elif type(module) is Linear and _is_plain(module):
            module.forward = partial(_linear, module)


def is_installed(model: Any) -> bool:
    """Whether the linear layers are this package's, which decide about most of what is kept for backward."""
    return any(getattr(module.__dict__.get("forward"), "func", None) is _linear for module in model.modules())


def knows_asking(model: Any) -> bool:
    """Whether a model of text takes `asking`: the positions, ascending, whose hidden states are wanted. The last layer
    computes nothing but keys and values for all others. That is for rows that lie one after the other."""
    layers = getattr(model, "layers", None)
    return layers is not None and getattr(layers[-1].__dict__.get("forward"), "func", None) is _last_layer


def draws_alone(model: Any) -> bool:
    """Whether all random numbers of a forward pass are drawn by this package: what `side_by_side` needs."""
    from peft.tuners.lora import LoraLayer

    adapters = [module for module in model.modules() if isinstance(module, LoraLayer)]
    ours = all(getattr(module.__dict__.get("forward"), "func", None) is _linear for module in adapters)
    return bool(adapters) and ours and not model.config.get_text_config().attention_dropout


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
    return module.down_proj(gated(*_side_by_side(x, module.gate_proj, module.up_proj)))


def _last_layer(
    module: Any, original: Any, hidden_states: torch.Tensor, *others: Any, asking: torch.Tensor | None = None,
    **more: Any,
) -> torch.Tensor:  # fmt: skip
    """For the tokens that are `asking`, if any are named: (1, asking tokens, width)."""
    if asking is None:
        found: torch.Tensor = original(hidden_states, *others, **more)
        return found
    attention, _ = module.self_attn(module.input_layernorm(hidden_states), *others, only=asking, **more)
    hidden_states = hidden_states.index_select(1, asking)
    if _has_norms_on_both_sides(module):
        return _after_attention(module, hidden_states, attention)
    hidden_states = hidden_states + attention
    return hidden_states + module.mlp(module.post_attention_layernorm(hidden_states))


def _layer(module: Any, hidden_states: torch.Tensor, *others: Any, **more: Any) -> torch.Tensor:
    attention, _ = module.self_attn(module.input_layernorm(hidden_states), *others, **more)
    return _after_attention(module, hidden_states, attention)


def _has_norms_on_both_sides(module: Any) -> bool:
    """As layers have since Gemma 2."""
    return hasattr(module, "pre_feedforward_layernorm")


def _after_attention(module: Any, hidden_states: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """What stands between attention and the gated unit is not kept: both that it is the sum of are."""
    between = recompute.added(hidden_states, module.post_attention_layernorm(attention))
    return between + module.post_feedforward_layernorm(module.mlp(module.pre_feedforward_layernorm(between)))


def _attention(
    module: Any, original: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any = None,
    past_key_values: Any = None, *, only: torch.Tensor | None = None, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Of rows that lie one after the other, as `row_attention` has them, tokens first. All others, and those that are
    longer than a sliding window or whose scores are capped, as they were. only: the tokens it is wanted of."""
    rows, window = more.get("row_lengths"), getattr(module, "sliding_window", None)
    other = getattr(module, "attn_logit_softcapping", None) is not None or not module.is_causal
    if rows is None or other or module.attention_dropout or (window is not None and max(rows) > window):
        found: tuple[torch.Tensor, None] = original(
            hidden_states, position_embeddings, attention_mask, past_key_values=past_key_values, **more
        )
        return found if only is None else (found[0].index_select(1, only), None)
    if only is None:
        projected = _side_by_side(hidden_states, module.q_proj, module.k_proj, module.v_proj)
    else:
        query = module.q_proj(hidden_states.index_select(1, only))
        projected = [query, *_side_by_side(hidden_states, module.k_proj, module.v_proj)]
    query, key, value = (found.view(found.shape[1], -1, module.head_dim) for found in projected)
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    angles = [angle[0, :, None, : module.head_dim // 2].to(query.dtype) for angle in position_embeddings]
    of_query = angles if only is None else [angle.index_select(0, only) for angle in angles]
    attention = attended(turned(query, *of_query), turned(key, *angles), value, rows, module.scaling, only)
    return module.o_proj(recompute.mark_chain(_heads_together(attention), attention, _heads_together)), None


def _heads_together(attention: torch.Tensor) -> torch.Tensor:
    """(tokens, heads, width) -> (1, tokens, all heads' width)"""
    return attention.flatten(1).unsqueeze(0)


def _linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    if _is_off(module):
        return torch.nn.functional.linear(x, module.base_layer.weight)
    (found,) = _adapted([module], x)
    return found


def _side_by_side(x: torch.Tensor, *modules: Any) -> list[torch.Tensor]:
    """What linear layers make of one input; as one function where they are this package's, which all have one rank,
    scale and dropout."""
    ours = all(getattr(module.__dict__.get("forward"), "func", None) is _linear for module in modules)
    return _adapted(modules, x) if ours and not any(map(_is_off, modules)) else [module(x) for module in modules]


def _is_off(module: Any) -> bool:
    return bool(module.disable_adapters or module.merged)


def _adapted(modules: Sequence[Any], x: torch.Tensor) -> list[torch.Tensor]:
    first = modules[0]
    layers = [
        Layer(module.base_layer.weight, module.lora_A["default"].weight, module.lora_B["default"].weight)
        for module in modules
    ]
    dropout = getattr(first.lora_dropout["default"], "p", 0.0) if first.training else 0.0
    return adapted(x, layers, scale=first.scaling["default"], dropout=dropout)
