"""Puts this package's functions into a loaded model, instance by instance, as Liger's are put into one on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from gemtune.families import of_model_type
from trainer.base_model.class_names import ATTENTIONS, LAYERS, MLPS, NORMS
from trainer.base_model.gemma_layers import (
    Attention,
    DecoderLayer,
    Forward,
    GatedUnit,
    LayerOfFourNorms,
    Norm,
    has_norms_of_heads,
    has_norms_on_both_sides,
)
from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.adapted_linear import Layer, adapted
from trainer.model.on_cpu.attention import attended
from trainer.model.on_cpu.gated_unit import gated
from trainer.model.on_cpu.rms_norm import normalized
from trainer.model.on_cpu.rotary import turned

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel


class Installed(partial[Any]):
    """A module's forward that is this package's, with the module as its first argument; told by its type."""


class _Adapted(Protocol):
    """PEFT's linear layer with a LoRA adapter of the name `default`."""

    base_layer: torch.nn.Linear
    lora_A: Mapping[str, torch.nn.Linear]
    lora_B: Mapping[str, torch.nn.Linear]
    lora_dropout: Mapping[str, torch.nn.Module]
    lora_variant: Mapping[str, object]
    scaling: Mapping[str, float]
    training: bool

    @property
    def disable_adapters(self) -> bool: ...
    @property
    def merged(self) -> bool: ...


def install(model: LanguageModel) -> None:
    """model: with a LoRA adapter on a frozen base. Layers of 4 bits stay as they are, and so does every layer of a
    family whose layers were not compared with transformers'."""
    from peft.tuners.lora import Linear

    family = of_model_type(model.config.model_type)
    if family is None or family.fused is None:
        return

    last = model.config.get_text_config().num_hidden_layers - 1
    for part in model.modules():
        kind, module = type(part).__name__, cast(Any, part)  # it meets a protocol by the name of its class
        if kind in NORMS and not module.weight.requires_grad:
            module.forward = Installed(_norm, module)
        elif kind in MLPS and type(module.act_fn).__name__ == "GELUTanh":
            module.forward = Installed(_mlp, module)
        elif kind in ATTENTIONS:
            module.forward = Installed(_attention, module, module.forward)
        elif kind in LAYERS and module.self_attn.layer_idx == last:
            module.forward = Installed(_last_layer, module, module.forward)
        elif kind in LAYERS and has_norms_on_both_sides(part):
            module.forward = Installed(_layer, module)
        elif type(part) is Linear and _is_plain(module):
            module.forward = Installed(_linear, module)


def is_installed(model: LanguageModel) -> bool:
    """Whether the linear layers are this package's, which decide about most of what is kept for backward."""
    return any(_installed(module) is _linear for module in model.modules())


def is_partly_installed(model: LanguageModel) -> bool:
    """Whether any part is this package's; linear layers of 4 bits are not."""
    return any(_installed(module) is not None for module in model.modules())


def knows_asking(body: torch.nn.Module) -> bool:
    """Whether a model of text takes `asking`: the positions, ascending, whose hidden states are wanted. The last layer
    computes nothing but keys and values for all others. That is for rows that lie one after the other."""
    layers = getattr(body, "layers", None)
    return layers is not None and _installed(layers[-1]) is _last_layer


def draws_alone(model: LanguageModel) -> bool:
    """Whether all random numbers of a forward pass are drawn by this package: what `side_by_side` needs."""
    from peft.tuners.lora import LoraLayer

    adapters = [module for module in model.modules() if isinstance(module, LoraLayer)]
    ours = all(_installed(module) is _linear for module in adapters)
    return bool(adapters) and ours and not model.config.get_text_config().attention_dropout


def _installed(module: object) -> Callable[..., Any] | None:
    """The function of this package that is a module's forward; None where it is the class's, or somebody else's."""
    forward = vars(module).get("forward")
    return forward.func if isinstance(forward, Installed) else None


def _is_plain(module: _Adapted) -> bool:
    base = module.base_layer
    return (
        type(base) is torch.nn.Linear
        and base.bias is None
        and not base.weight.requires_grad
        and list(module.lora_A) == ["default"]
        and module.lora_B["default"].bias is None
        and not module.lora_variant
    )


def _norm(module: Norm, x: torch.Tensor) -> torch.Tensor:
    return normalized(x, module.weight, module.eps)


def _mlp(module: GatedUnit, x: torch.Tensor) -> torch.Tensor:
    return module.down_proj(gated(*_side_by_side(x, module.gate_proj, module.up_proj)))


def _last_layer(
    module: DecoderLayer, original: Forward, hidden_states: torch.Tensor, *others: Any,
    asking: torch.Tensor | None = None, **more: Any,
) -> torch.Tensor:  # fmt: skip
    """For the tokens that are `asking`, if any are named: (1, asking tokens, width)."""
    if asking is None:
        return original(hidden_states, *others, **more)
    attention, _ = module.self_attn(module.input_layernorm(hidden_states), *others, only=asking, **more)
    hidden_states = hidden_states.index_select(1, asking)
    if has_norms_on_both_sides(module):
        return _after_attention(module, hidden_states, attention)
    hidden_states = hidden_states + attention
    return hidden_states + module.mlp(module.post_attention_layernorm(hidden_states))


def _layer(module: LayerOfFourNorms, hidden_states: torch.Tensor, *others: Any, **more: Any) -> torch.Tensor:
    attention, _ = module.self_attn(module.input_layernorm(hidden_states), *others, **more)
    return _after_attention(module, hidden_states, attention)


def _after_attention(module: LayerOfFourNorms, hidden_states: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """What stands between attention and the gated unit is not kept: both that it is the sum of are."""
    between = recompute.added(hidden_states, module.post_attention_layernorm(attention))
    return between + module.post_feedforward_layernorm(module.mlp(module.pre_feedforward_layernorm(between)))


def _attention(
    module: Attention, original: Callable[..., tuple[torch.Tensor, None]], hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor], *others: Any, only: torch.Tensor | None = None, **more: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Of rows that lie one after the other, as `row_attention` has them, tokens first. All others, and those that are
    longer than a sliding window or whose scores are capped, as they were. only: the tokens it is wanted of."""
    rows, window = more.get("row_lengths"), getattr(module, "sliding_window", None)
    other = getattr(module, "attn_logit_softcapping", None) is not None or not module.is_causal
    if rows is None or other or module.attention_dropout or (window is not None and max(rows) > window):
        found = original(hidden_states, position_embeddings, *others, **more)
        return found if only is None else (found[0].index_select(1, only), None)
    if only is None:
        projected = _side_by_side(hidden_states, module.q_proj, module.k_proj, module.v_proj)
    else:
        query = module.q_proj(hidden_states.index_select(1, only))
        projected = [query, *_side_by_side(hidden_states, module.k_proj, module.v_proj)]
    query, key, value = (found.view(found.shape[1], -1, module.head_dim) for found in projected)
    if has_norms_of_heads(module):
        query, key = module.q_norm(query), module.k_norm(key)
    angles = [angle[0, :, None, : module.head_dim // 2].to(query.dtype) for angle in position_embeddings]
    of_query = angles if only is None else [angle.index_select(0, only) for angle in angles]
    attention = attended(turned(query, *of_query), turned(key, *angles), value, rows, module.scaling, only)
    return module.o_proj(recompute.mark_chain(_heads_together(attention), attention, _heads_together)), None


def _heads_together(attention: torch.Tensor) -> torch.Tensor:
    """(tokens, heads, width) -> (1, tokens, all heads' width)"""
    return attention.flatten(1).unsqueeze(0)


def _linear(module: _Adapted, x: torch.Tensor) -> torch.Tensor:
    if _is_off(module):
        return torch.nn.functional.linear(x, module.base_layer.weight)
    (found,) = _adapted([module], x)
    return found


def _side_by_side(x: torch.Tensor, *modules: torch.nn.Module) -> list[torch.Tensor]:
    """What linear layers make of one input; as one function where they are this package's, which all have one rank,
    scale and dropout."""
    if all(_installed(module) is _linear for module in modules):
        ours = cast("Sequence[_Adapted]", modules)
        if not any(map(_is_off, ours)):
            return _adapted(ours, x)
    return [module(x) for module in modules]


def _is_off(module: _Adapted) -> bool:
    return module.disable_adapters or module.merged


def _adapted(modules: Sequence[_Adapted], x: torch.Tensor) -> list[torch.Tensor]:
    first = modules[0]
    layers = [
        Layer(module.base_layer.weight, module.lora_A["default"].weight, module.lora_B["default"].weight)
        for module in modules
    ]
    dropout = getattr(first.lora_dropout["default"], "p", 0.0) if first.training else 0.0
    return adapted(x, layers, scale=first.scaling["default"], dropout=dropout)
