"""Replaces forwards of a loaded model by the functions of this package.

Forwards are replaced per instance, so transformers' classes, and other models, stay as they are; `trainer.model.liger`
does the same on a GPU.
"""

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
    FourNormLayer,
    GatedUnit,
    Norm,
    has_four_norms,
    has_head_norms,
)
from trainer.model.on_cpu import recompute
from trainer.model.on_cpu.adapted_linear import Layer, lora_linear
from trainer.model.on_cpu.attention import attend
from trainer.model.on_cpu.gated_unit import gated_gelu
from trainer.model.on_cpu.rms_norm import rms_norm
from trainer.model.on_cpu.rotary import rotate

if TYPE_CHECKING:
    from trainer.base_model.language_model import LanguageModel


class Installed(partial[Any]):
    """A replaced forward, bound to its module; the type marks it as ours.

    A plain `partial` subclass, so that `_installed` can tell our forwards from those of other libraries.
    """


class _Adapted(Protocol):
    """PEFT's `lora.Linear`, with an adapter named `default`."""

    base_layer: torch.nn.Linear
    lora_A: Mapping[str, torch.nn.Linear]
    lora_B: Mapping[str, torch.nn.Linear]
    lora_dropout: Mapping[str, torch.nn.Module]
    lora_variant: Mapping[str, object]
    scaling: Mapping[str, float]
    training: bool

    @property
    def active_adapters(self) -> list[str]: ...
    @property
    def disable_adapters(self) -> bool: ...
    @property
    def merged(self) -> bool: ...


def install(model: LanguageModel) -> None:
    """Replace the forwards of a model on a CPU that these functions cover.

    model: with LoRA adapters on a frozen base model. 4-bit layers stay as they are, and so do all layers of a family
    whose layers were not compared with transformers'.
    """
    from peft.tuners.lora import Linear

    family = of_model_type(model.config.model_type)
    if family is None or family.fused is None:
        return

    last = model.config.get_text_config().num_hidden_layers - 1
    for part in model.modules():
        kind, module = type(part).__name__, cast(Any, part)  # the class name says which protocol it implements
        if kind in NORMS and not module.weight.requires_grad:
            module.forward = Installed(_norm, module)
        elif kind in MLPS and type(module.act_fn).__name__ == "GELUTanh":
            module.forward = Installed(_mlp, module)
        elif kind in ATTENTIONS:
            module.forward = Installed(_attention, module, module.forward)
        elif kind in LAYERS and module.self_attn.layer_idx == last:
            module.forward = Installed(_last_layer, module, module.forward)
        elif kind in LAYERS and has_four_norms(part):
            module.forward = Installed(_layer, module)
        elif type(part) is Linear and _is_plain(module):
            module.forward = Installed(_linear, module)


def is_installed(model: LanguageModel) -> bool:
    """Return whether the linear layers are ours.

    They decide most of what is saved for backward.
    """
    return any(_installed(module) is _linear for module in model.modules())


def is_partly_installed(model: LanguageModel) -> bool:
    """Return whether any layer is ours; with 4-bit weights, some are not."""
    return any(_installed(module) is not None for module in model.modules())


def computes_attention(attention: torch.nn.Module) -> bool:
    """Return whether the forward of an attention layer is ours."""
    return _installed(attention) is _attention


def accepts_query_positions(body: torch.nn.Module) -> bool:
    """Return whether the model's body takes `query_positions`.

    body: the model below its head. query_positions: (positions,), int64, ascending: the positions whose hidden states
    are needed. For all others the last layer computes keys and values only. For batches of concatenated rows.
    """
    layers = getattr(body, "layers", None)
    return layers is not None and _installed(layers[-1]) is _last_layer


def draws_all_random_numbers(model: LanguageModel) -> bool:
    """Return whether this package draws all random numbers of a forward pass.

    `row_parallel` needs that, since it gives each thread a generator of its own.
    """
    from peft.tuners.lora import LoraLayer

    adapters = [module for module in model.modules() if isinstance(module, LoraLayer)]
    ours = all(_installed(module) is _linear for module in adapters)
    return bool(adapters) and ours and not model.config.get_text_config().attention_dropout


def _installed(module: object) -> Callable[..., Any] | None:
    """Return our function behind a module's forward; None if it is not ours."""
    forward = vars(module).get("forward")
    return forward.func if isinstance(forward, Installed) else None


def _is_plain(module: _Adapted) -> bool:
    """Return whether `lora_linear` can replace a layer: frozen, plain LoRA."""
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
    """Replace the forward of Gemma's RMSNorm. x: (..., width)."""
    return rms_norm(x, module.weight, module.eps)


def _mlp(module: GatedUnit, x: torch.Tensor) -> torch.Tensor:
    """Replace the forward of Gemma's MLP. x: (..., width)."""
    return module.down_proj(gated_gelu(*_apply_all(x, module.gate_proj, module.up_proj)))


def _last_layer(
    module: DecoderLayer,
    original_forward: Forward,
    hidden_states: torch.Tensor,
    *args: Any,
    query_positions: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Replace the forward of the last decoder layer.

    hidden_states: (1, tokens, width). Returns (1, query positions, width) with `query_positions`, else what the
    original forward returns. The model passes `query_positions` to every layer; only the last one heeds them.
    """
    if query_positions is None:
        return original_forward(hidden_states, *args, **kwargs)
    attention, _ = module.self_attn(module.input_layernorm(hidden_states), *args, attend_from=query_positions, **kwargs)
    hidden_states = hidden_states.index_select(1, query_positions)
    if has_four_norms(module):
        return _after_attention(module, hidden_states, attention)
    hidden_states = hidden_states + attention
    return hidden_states + module.mlp(module.post_attention_layernorm(hidden_states))


def _layer(module: FourNormLayer, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Replace the forward of a decoder layer with norms around both its parts.

    hidden_states and the result: (1, tokens, width). It computes what transformers does, and lets `recompute` drop the
    sum after attention.
    """
    attention, _ = module.self_attn(module.input_layernorm(hidden_states), *args, **kwargs)
    return _after_attention(module, hidden_states, attention)


def _after_attention(module: FourNormLayer, hidden_states: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Return a decoder layer's output, given that of its attention.

    The sum between attention and the gated unit is not saved for backward: it is recomputed from both summands, which
    are. All are (1, tokens, width).
    """
    between = recompute.add(hidden_states, module.post_attention_layernorm(attention))
    return between + module.post_feedforward_layernorm(module.mlp(module.pre_feedforward_layernorm(between)))


def _attention(
    module: Attention,
    original_forward: Callable[..., tuple[torch.Tensor, None]],
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    *args: Any,
    attend_from: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Replace the forward of Gemma's attention for concatenated rows.

    hidden_states: (1, tokens, width). position_embeddings: cos and sin, each (1, tokens, head width). kwargs:
    `row_lengths`, as for `row_attention`. attend_from: (query tokens,), int64, ascending, from the last layer; None:
    all tokens. Without `row_lengths`, with a row longer than the sliding window, with capped scores or with attention
    dropout, the original forward is called. Returns (1, query tokens, width) and no weights.
    """
    rows, window = kwargs.get("row_lengths"), getattr(module, "sliding_window", None)
    unsupported = getattr(module, "attn_logit_softcapping", None) is not None or not module.is_causal
    if rows is None or unsupported or module.attention_dropout or (window is not None and max(rows) > window):
        output = original_forward(hidden_states, position_embeddings, *args, **kwargs)
        return output if attend_from is None else (output[0].index_select(1, attend_from), None)
    if attend_from is None:
        projected = _apply_all(hidden_states, module.q_proj, module.k_proj, module.v_proj)
    else:
        query = module.q_proj(hidden_states.index_select(1, attend_from))
        projected = [query, *_apply_all(hidden_states, module.k_proj, module.v_proj)]
    query, key, value = (tensor.view(tensor.shape[1], -1, module.head_dim) for tensor in projected)
    if has_head_norms(module):
        query, key = module.q_norm(query), module.k_norm(key)
    angles = [angle[0, :, None, : module.head_dim // 2].to(query.dtype) for angle in position_embeddings]
    query_angles = angles if attend_from is None else [angle.index_select(0, attend_from) for angle in angles]
    attention = attend(rotate(query, *query_angles), rotate(key, *angles), value, rows, module.scaling, attend_from)
    return module.o_proj(recompute.mark_chain(_heads_together(attention), attention, _heads_together)), None


def _heads_together(attention: torch.Tensor) -> torch.Tensor:
    """Reshape (tokens, heads, width) to (1, tokens, heads * width)."""
    return attention.flatten(1).unsqueeze(0)


def _linear(module: _Adapted, x: torch.Tensor) -> torch.Tensor:
    """Replace the forward of PEFT's `lora.Linear`. x: (..., in)."""
    if _is_inactive(module):
        return torch.nn.functional.linear(x, module.base_layer.weight)
    (out,) = _apply_adapted([module], x)
    return out


def _apply_all(x: torch.Tensor, *modules: torch.nn.Module) -> list[torch.Tensor]:
    """Return the outputs of linear layers that read one input x (..., in).

    One `lora_linear` call computes all if all are ours; their rank, scale and dropout are the same then.
    """
    if all(_installed(module) is _linear for module in modules):
        ours = cast("Sequence[_Adapted]", modules)
        if not any(map(_is_inactive, ours)):
            return _apply_adapted(ours, x)
    return [module(x) for module in modules]


def _is_inactive(module: _Adapted) -> bool:
    """Return whether the adapter is disabled, or merged into the weight."""
    return module.disable_adapters or module.merged


def _apply_adapted(modules: Sequence[_Adapted], x: torch.Tensor) -> list[torch.Tensor]:
    """Call `lora_linear` once with the weights of all of PEFT's layers.

    One adapter is active: the one that is trained, or while TRL computes its reference the copy of it.
    """
    first = modules[0]
    (active,) = first.active_adapters
    layers = [
        Layer(module.base_layer.weight, module.lora_A[active].weight, module.lora_B[active].weight)
        for module in modules
    ]
    dropout = getattr(first.lora_dropout[active], "p", 0.0) if first.training else 0.0
    return lora_linear(x, layers, scale=first.scaling[active], dropout=dropout)
