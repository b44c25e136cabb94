"""Shapes of models that transformers does not compute, by their config.json.

All were tried with tiny models, whose training ended in an error of torch or transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gemtune.families.configs.defaults import GLOBAL, SLIDING
from gemtune.families.configs.fields import shown, wrong_values

# torch multiplies the weights of experts in rows of whole 16 bytes, which are 8 numbers of bf16.
EXPERTS_IN_STEPS_OF = 8
LAYER_TYPES = (SLIDING, GLOBAL)
# Names of transformers' functions of activation.
ACTIVATIONS = frozenset(
    (
        *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
        *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu"),
        *("relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu"),
    )
)
# Ways to rotate positions that transformers has, and the fields that each needs.
ROPE_TYPES: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": (),
}


def uncomputed(fields: Mapping[str, Any], model_type: str) -> Iterator[str]:
    """Yield why transformers does not compute a model of this shape.

    fields: of its language model.
    """
    if fields.get("enable_moe_block"):
        yield from _uncomputed_experts(fields)
    has_no_inputs = "hidden_size_per_layer_input" in fields and not fields["hidden_size_per_layer_input"]
    if model_type in ("gemma4", "gemma4_text") and fields.get("num_kv_shared_layers") and has_no_inputs:
        yield "transformers does not compute a Gemma 4 that shares keys and values and has no inputs per layer"
    rows = fields.get("vocab_size_per_layer_input", 0)
    missing = fields.get("vocab_size", rows) - rows if rows else 0
    if model_type in ("gemma4", "gemma4_text") and not has_no_inputs and missing > 0:  # Gemma 3n takes those of <pad>
        yield f"its embeddings per layer lack {missing} of its tokens, which transformers does not compute in a Gemma 4"
    if model_type == "gemma3" and fields.get("final_logit_softcapping") is not None:
        yield "transformers does not cap the logits of a Gemma 3 with a vision tower, and its config.json has a cap"
    activation = fields.get("hidden_activation")
    activation = fields.get("hidden_act", "gelu") if activation is None else activation
    if activation not in ACTIVATIONS:
        yield f"transformers has no activation {shown(activation)}, which is in its config.json"
    for rotation in _rotations(fields):
        yield from _unknown_rotation(rotation)


def contradictions(text: Mapping[str, Any], *, heads_divide_width: bool) -> Iterator[str]:
    """Yield which values of a language model contradict each other.

    heads_divide_width: whether transformers takes only widths that are a multiple of the number of heads.
    """
    heads, hidden = text.get("num_attention_heads"), text.get("hidden_size")
    for name in ("num_key_value_heads", "num_global_key_value_heads"):
        yield from unshared_heads(heads, text.get(name))
    if heads_divide_width and heads is not None and hidden is not None and hidden % heads:
        yield f"its hidden_size {hidden} is not a multiple of its {heads} attention heads"
    for name in ("head_dim", "global_head_dim"):
        if (text.get(name) or 0) % 2:
            yield f"its {name} is {text[name]}, and positions rotate pairs of numbers"
    rows = text.get("vocab_size")
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        ids = text[name] if isinstance(text.get(name), list) else [text.get(name)]
        if rows is not None and any(token is not None and token >= rows for token in ids):
            yield f"its vocab_size is {rows}, and its {name} {shown(text[name])}"
    layers, shared = text.get("num_hidden_layers"), text.get("num_kv_shared_layers") or 0
    for name in ("layer_types", "intermediate_size", "activation_sparsity_pattern"):
        listed = text.get(name)
        if layers is not None and isinstance(listed, list) and len(listed) != layers:
            yield f"its config.json has {len(listed)} {name} for {layers} layers"
    types = text.get("layer_types") or []
    if unknown := [kind for kind in types if kind not in LAYER_TYPES]:
        yield f"no Gemma has a layer of the type {shown(unknown[0])}"
    elif LAYER_TYPES[0] in types and text.get("sliding_window", 1) is None:
        yield "its config.json has sliding layers without a sliding_window"
    elif layers is not None and shared and (shared >= layers or set(types) - set(types[: layers - shared])):
        yield f"its last {shared} layers use keys and values of earlier ones, which has none of each type of layer"


def overrides(text: Mapping[str, Any]) -> Iterator[str]:
    """Yield which values are wrong that a config.json has for single layers."""
    per_layer, types = text.get("per_layer_config"), text.get("layer_types") or []
    if per_layer is None:
        return
    if not isinstance(per_layer, Mapping) or not all(isinstance(each, Mapping) for each in per_layer.values()):
        yield f"per_layer_config is {shown(per_layer)} in its config.json, and not an object of objects"
        return
    for layer in per_layer.values():
        yield from wrong_values(layer)
        if (layer.get("head_dim") or 0) % 2:
            yield f"the head_dim of a layer is {layer['head_dim']}, and positions rotate pairs of numbers"
        yield from unshared_heads(text.get("num_attention_heads"), layer.get("num_key_value_heads"))
    # transformers pads the numbers of layers with zeros.
    by_number = {key.lstrip("0") or "0": layer for key, layer in per_layer.items()}
    for kind in LAYER_TYPES:
        layers = [by_number.get(str(index), {}) for index, each in enumerate(types) if each == kind]
        if any(layer != layers[0] for layer in layers):
            yield f"its {kind} layers differ from each other in per_layer_config"


def missing_rotations(text: Mapping[str, Any]) -> Iterator[str]:
    """Yield what transformers lacks to rotate positions in each kind of layer.

    text: of a generation whose models state that for each kind.
    """
    stated = text.get("rope_parameters")
    if text.get("rope_scaling") is not None:
        yield "its config.json has a rope_scaling, which models of its generation do not have"
    if not isinstance(stated, Mapping):
        return
    for kind in LAYER_TYPES:
        rotation = stated.get(kind)
        if not isinstance(rotation, Mapping) or "rope_theta" not in rotation:
            yield f"the rope_parameters in its config.json lack a rope_theta of {kind}"
            continue
        share = rotation.get("partial_rotary_factor", 1.0)
        if type(share) not in (int, float) or not 0 < share <= 1:
            yield f"partial_rotary_factor is {shown(share)} in its config.json, and not from 0 to 1"


def unshared_heads(heads: int | None, key_heads: int | None) -> Iterator[str]:
    """Yield that heads cannot share those of keys and values, if so."""
    if heads is not None and key_heads is not None and heads % key_heads:
        yield f"its {heads} attention heads cannot share {key_heads} heads of keys and values"


def _uncomputed_experts(fields: Mapping[str, Any]) -> Iterator[str]:
    count, used = fields.get("num_experts"), fields.get("top_k_experts")
    names = ("num_experts", "top_k_experts", "moe_intermediate_size")
    missing = [name for name in names if (fields.get(name) or 0) < 1]
    if missing:
        yield f"it is a mixture of experts, and {missing[0]} is {shown(fields.get(missing[0]))} in its config.json"
    elif isinstance(count, int) and isinstance(used, int) and used > count:
        yield f"it is a mixture of {count} experts, and each token needs {used} of them"
    for name in ("hidden_size", "moe_intermediate_size"):
        width = fields.get(name)
        if isinstance(width, int) and width % EXPERTS_IN_STEPS_OF:
            yield f"torch computes experts in steps of {EXPERTS_IN_STEPS_OF}, and {name} is {width} in its config.json"


def _rotations(fields: Mapping[str, Any]) -> Iterator[object]:
    """Yield how layers rotate positions; one or two kinds of layers."""
    stated = fields.get("rope_parameters")
    if isinstance(stated, Mapping):
        by_layer = [stated[kind] for kind in LAYER_TYPES if kind in stated]
        yield from (by_layer or [stated] if stated else [])
    if fields.get("rope_scaling") is not None:  # the older field
        yield fields["rope_scaling"]


def _unknown_rotation(rotation: object) -> Iterator[str]:
    if rotation is None:
        return
    if not isinstance(rotation, Mapping):
        yield f"its config.json says {shown(rotation)} about the rotation of positions, and not an object"
        return
    kind = rotation.get("rope_type", rotation.get("type", "default"))
    needed = ROPE_TYPES.get(kind) if isinstance(kind, str) else None
    if needed is None:
        yield f"transformers cannot rotate positions by {shown(kind)}, which is in its config.json"
        return
    for name in needed:
        if name not in rotation:
            yield f"its config.json rotates positions by {kind} without a {name}"
    base = rotation.get("rope_theta", 1.0)
    if type(base) not in (int, float) or not base > 0:
        yield f"its rope_theta is {shown(base)}, and not a number above 0"
