"""Size of a base model, by its name or by its files.

All functions are pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gemtune import families
from gemtune.families.configs.fields import LARGEST_VALUES
from gemtune.families.configs.sections import language_model
from gemtune.families.size import NO_TOWER, SIGLIP, Experts, Layers, ModelSize, Tower

# Bytes per parameter by `dtype`, as config.json names it.
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def by_name(repository: str) -> ModelSize | None:
    """Return the size of a Hub model.

    None if its name does not identify a published one.
    """
    return families.size_by_name(repository)


def estimate_size(parameters: int, *, bytes_per_parameter: int = 2) -> ModelSize:
    """Estimate the size of a model from its number of parameters.

    The other dimensions are those of the next larger published model.
    """
    published = sorted((size for family in families.FAMILIES for size in family.sizes.values()), key=_parameters)
    nearest = next((size for size in published if size.parameters >= parameters), published[-1])
    return replace(nearest, parameters=parameters, bytes_per_parameter=bytes_per_parameter)


def of_folder(config: Mapping[str, Any], weights_bytes: int) -> ModelSize:
    """Return the size of a model by its config.json.

    Dimensions that the config.json leaves out are estimated. weights_bytes: total size of its weights files.
    """
    text, family = language_model(config), families.of_model_type(config.get("model_type"))
    text = text if family is None else family.defaults.completed(text)
    # transformers 5 writes `dtype`, earlier versions wrote `torch_dtype`. Without either it is float32.
    dtype = config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    bytes_per_parameter = _BYTES.get(str(dtype), 4)
    estimate = estimate_size(weights_bytes // bytes_per_parameter, bytes_per_parameter=bytes_per_parameter)
    hidden, shapes = _count(text, "hidden_size"), _shapes(text)
    if hidden is None or shapes is None:
        return estimate
    return ModelSize(
        parameters=estimate.parameters,
        hidden=hidden,
        shapes=shapes,
        vocabulary=_count(text, "vocab_size") or estimate.vocabulary,
        bytes_per_parameter=bytes_per_parameter,
        capped_heads=(_count(text, "num_attention_heads") or 0) if text.get("attn_logit_softcapping") else 0,
        per_layer_input=_count(text, "hidden_size_per_layer_input") or 0,
        experts=_experts(text),
        tower=_tower(config),
    )


def _tower(config: Mapping[str, Any]) -> Tower:
    """Return the vision tower of a config.json.

    A model without one, or whose tower has unknown dimensions, has the largest one here. Models without encoders have
    none.
    """
    family_and_type = families.of_config(config)
    if family_and_type is not None and family_and_type[1].encoder_free:
        return NO_TOWER
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return SIGLIP
    layers, hidden, intermediate = (
        _count(vision, name) for name in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    if layers is None or hidden is None or intermediate is None:
        return SIGLIP
    image, patch = _count(vision, "image_size"), _count(vision, "patch_size")
    # Gemma 4 fits each picture into a number of patches, which its config.json does not have; SIGLIP has more.
    patches = SIGLIP.patches if image is None or patch is None else (image // patch) ** 2
    return Tower(layers, hidden, intermediate, patches)


def _shapes(text: Mapping[str, Any]) -> tuple[Layers, ...] | None:
    """Return the layers of a text configuration.

    None if their dimensions are not given.
    """
    layers, heads = _count(text, "num_hidden_layers"), _count(text, "num_attention_heads")
    hidden, intermediate = _count(text, "hidden_size"), text.get("intermediate_size")
    if layers is None or heads is None or hidden is None or not intermediate:
        return None
    family = families.of_model_type(text.get("model_type"))
    global_head = None if family is None else family.global_head
    counts = Counter(_layer(text, index, layers, heads, hidden, global_head) for index in range(layers))
    if any(shape.intermediate <= 0 for shape in counts):
        return None
    return tuple(replace(shape, count=count) for shape, count in counts.items())


def _layer(
    text: Mapping[str, Any], index: int, layers: int, heads: int, hidden: int, global_head: int | None
) -> Layers:
    """Return one layer of a text configuration, as Layers with count 1.

    global_head: see `Family`.
    """
    types = text.get("layer_types")
    is_global = isinstance(types, list) and index < len(types) and types[index] == "full_attention"
    global_head = global_head if is_global else None
    one_projection = global_head is not None and bool(text.get("attention_k_eq_v"))
    overrides = _overrides_of_layer(text, index, global_head, one_projection)
    head = _count(overrides, "head_dim") or _count(text, "head_dim") or hidden // heads
    key_heads = _count(overrides, "num_key_value_heads") or _count(text, "num_key_value_heads") or heads
    shares = index >= layers - (_count(text, "num_kv_shared_layers") or 0)
    doubled = 2 if shares and text.get("use_double_wide_mlp") else 1
    return Layers(
        count=1,
        intermediate=doubled * _width_of(text.get("intermediate_size"), index),
        attention=heads * head,
        key_value=0 if shares else key_heads * head,
        one_projection=one_projection,
    )


def _overrides_of_layer(
    text: Mapping[str, Any], index: int, global_head: int | None, one_projection: bool
) -> Mapping[str, Any]:
    """Return the values of one layer that differ from those of the model.

    They are those of global layers, in models with other heads there. Google writes them as fields for all global
    layers. transformers saves them layer by layer, under the number of the layer, which it pads with zeros to the width
    of the last one.
    """
    per_layer = text.get("per_layer_config")
    if isinstance(per_layer, Mapping):
        keys = (str(index).zfill(width) for width in range(1, len(str(LARGEST_VALUES["num_hidden_layers"])) + 1))
        overrides = next((per_layer[key] for key in keys if key in per_layer), None)
        return overrides if isinstance(overrides, Mapping) else {}
    if global_head is None:
        return {}
    overrides = {"head_dim": _count(text, "global_head_dim") or global_head}
    return overrides | ({"num_key_value_heads": text.get("num_global_key_value_heads")} if one_projection else {})


def _width_of(intermediate: Any, index: int) -> int:
    """Return the width of a layer's MLP. Gemma 3n lists one for each layer."""
    width = intermediate[index] if isinstance(intermediate, list) and index < len(intermediate) else intermediate
    return _count({"intermediate_size": width}, "intermediate_size") or 0


def _experts(text: Mapping[str, Any]) -> Experts | None:
    """Return the mixture of experts of a text configuration, or None."""
    count, width = _count(text, "num_experts"), _count(text, "moe_intermediate_size")
    if not text.get("enable_moe_block") or count is None or width is None:
        return None
    return Experts(count, width, _count(text, "top_k_experts") or 1)


def _parameters(size: ModelSize) -> int:
    """Return the number of parameters, as a sort key."""
    return size.parameters


def _count(config: Mapping[str, Any], name: str) -> int | None:
    """Return a field of the configuration if it is a positive integer.

    None if it is anything else, or exceeds its limit in LARGEST_VALUES.
    """
    value = config.get(name)
    return (
        value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_VALUES[name] else None
    )
