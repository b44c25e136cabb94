"""The size of a base model: from its name where it is a published one, else from what its folder holds. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gemtune import families
from gemtune.families.size import LARGEST_VALUES, Experts, Layers, ModelSize

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# What Gemma 4's configurations leave out: head dimension of global layers.
_GLOBAL_HEAD = 512


def by_name(repository: str) -> ModelSize | None:
    """The size of a model of the Hub, if its name says which one it is."""
    return families.size_by_name(repository)


def estimate_size(parameters: int, *, bytes_per_parameter: int = 2) -> ModelSize:
    """A model of which only the parameters are known: the rest as the next larger published one has it."""
    known = sorted((size for family in families.FAMILIES for size in family.sizes.values()), key=_parameters)
    nearest = next((size for size in known if size.parameters >= parameters), known[-1])
    return replace(nearest, parameters=parameters, bytes_per_parameter=bytes_per_parameter)


def of_folder(config: Mapping[str, Any], weights_bytes: int) -> ModelSize:
    """The size of a model with this config.json whose weights files have so many bytes in all."""
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, Mapping) else config
    # transformers 5 writes `dtype`, earlier ones `torch_dtype`; what a file does not say is float32.
    named = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    width = _BYTES.get(str(named), 4)
    guess = estimate_size(weights_bytes // width, bytes_per_parameter=width)
    hidden, shapes = _count(text, "hidden_size"), _shapes(text)
    if hidden is None or shapes is None:
        return guess
    return ModelSize(
        parameters=guess.parameters,
        hidden=hidden,
        shapes=shapes,
        vocabulary=_count(text, "vocab_size") or guess.vocabulary,
        bytes_per_parameter=width,
        capped_heads=(_count(text, "num_attention_heads") or 0) if text.get("attn_logit_softcapping") else 0,
        per_layer_input=_count(text, "hidden_size_per_layer_input") or 0,
        experts=_experts(text),
    )


def _shapes(text: Mapping[str, Any]) -> tuple[Layers, ...] | None:
    """The layers of a text configuration; None when it leaves out what they depend on."""
    layers, heads = _count(text, "num_hidden_layers"), _count(text, "num_attention_heads")
    hidden, intermediate = _count(text, "hidden_size"), text.get("intermediate_size")
    if layers is None or heads is None or hidden is None or not intermediate:
        return None
    counted = Counter(_layer(text, index, layers, heads, hidden) for index in range(layers))
    if any(shape.intermediate <= 0 for shape in counted):
        return None
    return tuple(replace(shape, count=count) for shape, count in counted.items())


def _layer(text: Mapping[str, Any], index: int, layers: int, heads: int, hidden: int) -> Layers:
    types = text.get("layer_types")
    is_global = isinstance(types, list) and index < len(types) and types[index] == "full_attention"
    has_global_heads = is_global and str(text.get("model_type")).startswith("gemma4")
    one_projection = has_global_heads and bool(text.get("attention_k_eq_v"))
    own = _own_values(text, index, has_global_heads, one_projection)
    head = _count(own, "head_dim") or _count(text, "head_dim") or hidden // heads
    key_heads = _count(own, "num_key_value_heads") or _count(text, "num_key_value_heads") or heads
    shares = index >= layers - (_count(text, "num_kv_shared_layers") or 0)
    doubled = 2 if shares and text.get("use_double_wide_mlp") else 1
    return Layers(
        count=1,
        intermediate=doubled * _width_of(text.get("intermediate_size"), index),
        attention=heads * head,
        key_value=0 if shares else key_heads * head,
        one_projection=one_projection,
    )


def _own_values(text: Mapping[str, Any], index: int, has_global_heads: bool, one_projection: bool) -> Mapping[str, Any]:
    """What a layer of Gemma 4 has of its own: written as Google does, or layer by layer as transformers saves it."""
    per_layer = text.get("per_layer_config")
    if isinstance(per_layer, Mapping):
        own = per_layer.get(str(index), {})
        return own if isinstance(own, Mapping) else {}
    if not has_global_heads:
        return {}
    own = {"head_dim": _count(text, "global_head_dim") or _GLOBAL_HEAD}
    return own | ({"num_key_value_heads": text.get("num_global_key_value_heads")} if one_projection else {})


def _width_of(intermediate: Any, index: int) -> int:
    """The width of a layer's MLP; Gemma 3n has a list with one for each layer."""
    width = intermediate[index] if isinstance(intermediate, list) and index < len(intermediate) else intermediate
    return _count({"intermediate_size": width}, "intermediate_size") or 0


def _experts(text: Mapping[str, Any]) -> Experts | None:
    count, width = _count(text, "num_experts"), _count(text, "moe_intermediate_size")
    if not text.get("enable_moe_block") or count is None or width is None:
        return None
    return Experts(count, width, _count(text, "top_k_experts") or 1)


def _parameters(size: ModelSize) -> int:
    return size.parameters


def _count(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    return (
        value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_VALUES[name] else None
    )
