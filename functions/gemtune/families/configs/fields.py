"""Types and ranges of the fields of a config.json.

The types are those of transformers' classes for the language models of all generations: it reads no other ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

# Larger than in any model. A config.json with a larger value is damaged, or meant to keep its readers busy.
LARGEST_VALUES: Mapping[str, int] = {
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 2**16,
    "hidden_size": 2**20,
    "intermediate_size": 2**24,
    "vocab_size": 2**24,
    "num_experts": 2**16,
    "moe_intermediate_size": 2**24,
    "top_k_experts": 2**16,
    "hidden_size_per_layer_input": 2**20,
    "global_head_dim": 2**16,
    "num_global_key_value_heads": 4096,
    "num_kv_shared_layers": 1024,
    "mm_tokens_per_image": 2**16,
    "image_size": 2**16,
    "patch_size": 2**16,
}
_SMALLEST: Mapping[str, int] = dict.fromkeys(
    ("hidden_size_per_layer_input", "num_kv_shared_layers", "rms_norm_eps", "initializer_range"), 0
) | dict.fromkeys(
    (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings", "query_pre_attn_scalar", "sliding_window"),
        *("global_head_dim", "num_global_key_value_heads"),
        *("altup_num_inputs", "laurel_rank"),
    ),
    1,
)
_NULL = type(None)
# Types of weights that can be trained, which other types are rounded from.
DTYPES = ("float32", "bfloat16", "float16", "float64")
# Types of JSON by field. A whole number is no float, and true is no number.
TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(
        (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
            *("head_dim", "max_position_embeddings", "query_pre_attn_scalar", "vocab_size_per_layer_input"),
            *("hidden_size_per_layer_input", "num_kv_shared_layers"),
            *("altup_active_idx", "altup_num_inputs", "laurel_rank", "global_head_dim"),
        ),
        (int,),
    ),
    **dict.fromkeys(
        (
            *("sliding_window", "num_experts", "top_k_experts", "moe_intermediate_size"),
            *("pad_token_id", "bos_token_id", "num_global_key_value_heads"),
        ),
        (int, _NULL),
    ),
    **dict.fromkeys(("initializer_range", "rms_norm_eps", "altup_coef_clip"), (float,)),
    **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping"), (float, _NULL)),
    **dict.fromkeys(
        (
            *("use_cache", "tie_word_embeddings", "attention_bias", "altup_correct_scale"),
            *("attention_k_eq_v", "enable_moe_block", "use_double_wide_mlp"),
        ),
        (bool,),
    ),
    "intermediate_size": (int, list),
    "eos_token_id": (int, list, _NULL),
    "attention_dropout": (int, float),  # transformers reads null, and cannot train with it
    "use_bidirectional_attention": (bool, str, _NULL),
    "hidden_act": (str,),
    "hidden_activation": (str, _NULL),  # null beside Gemma 1's hidden_act
    "layer_types": (list, _NULL),
    "rope_parameters": (dict, _NULL),
    "activation_sparsity_pattern": (list, _NULL),  # transformers has float too, and cannot read it
}
_ITEMS: Mapping[str, type] = {"intermediate_size": int, "eos_token_id": int, "activation_sparsity_pattern": float}
# Fields that are null in models of other generations only, by the beginning of these models' types.
_NEVER_NULL: Mapping[str, tuple[str, ...]] = {
    "hidden_activation": ("gemma2", "gemma3", "gemma4"),
    "final_logit_softcapping": ("gemma3n",),
    "sliding_window": ("gemma3n", "gemma4"),
}
_IN_WORDS = {int: "a whole number", float: "a number with a point", bool: "true or false", str: "a text"} | {
    list: "a list",
    dict: "an object",
    _NULL: "null",
}


def field_over_limit(config: Mapping[str, Any]) -> str | None:
    """Return the first field of a config.json that is too large, or None.

    The fields of its `text_config` are checked too.
    """
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for name, most in LARGEST_VALUES.items():
            values = part[name] if isinstance(part.get(name), list) else [part.get(name)]
            if any(isinstance(value, int | float) and value > most for value in values):
                return name
    return None


def wrong_values(text: Mapping[str, Any], model_type: str = "") -> Iterator[str]:
    """Yield which values have types or ranges that no model has.

    text: the fields of a language model. model_type: of the whole model; "" for fields of a single layer.
    """
    for name, types in TYPES.items():
        if name in text and type(text[name]) not in types:
            expected = " or ".join(_IN_WORDS[kind] for kind in types)
            yield f"{name} is {shown(text[name])} in its config.json, and not {expected}"
    if "hidden_activation" in text and text["hidden_activation"] is None and "hidden_act" not in text:
        yield "hidden_activation is null in its config.json, and not a text"
    for name, generations in _NEVER_NULL.items():
        if name in text and text[name] is None and model_type.startswith(generations):
            yield f"{name} is null in its config.json, and in no model of its generation"
    for name, kind in _ITEMS.items():
        if isinstance(items := text.get(name), list) and any(type(item) is not kind for item in items):
            yield f"an entry of {name} in its config.json is not {_IN_WORDS[kind]}: {shown(items)}"
    for name, smallest in _SMALLEST.items():
        values = text[name] if isinstance(text.get(name), list) else [text.get(name)]
        wrong = [each for each in values if isinstance(each, int | float) and each < smallest]
        if wrong:
            yield f"{name} is {shown(wrong[0])} in its config.json, and at least {smallest} in any model"
    dropout = text.get("attention_dropout")
    if isinstance(dropout, int | float) and not 0 <= dropout < 1:
        yield f"attention_dropout is {shown(dropout)} in its config.json, and not from 0 to 1"
    if isinstance(both_ways := text.get("use_bidirectional_attention"), str) and both_ways not in ("all", "vision"):
        yield f"use_bidirectional_attention is {shown(both_ways)} in its config.json, and no Gemma has that"


def wrong_parts(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield which values around the language model have wrong types.

    config: of a model with several parts.
    """
    for name, value in config.items():
        is_part, is_token = name in ("vision_config", "audio_config"), name.endswith(("_token_id", "_token_index"))
        if is_part and value is not None and not isinstance(value, Mapping):
            yield f"{name} is {shown(value)} in its config.json, and not an object"
        if is_token and type(value) not in TYPES.get(name, (int, _NULL)):
            yield f"{name} is {shown(value)} in its config.json, and not a whole number"
    if type(tied := config.get("tie_word_embeddings")) not in (bool, _NULL):
        yield f"tie_word_embeddings is {shown(tied)} in its config.json, and not true or false"
    for part in (config, config.get("text_config")):
        for name in ("dtype", "torch_dtype"):
            value = part.get(name) if isinstance(part, Mapping) else None
            if value is not None and (not isinstance(value, str) or value not in DTYPES):
                yield f"{name} is {shown(value)} in its config.json, and not one of {', '.join(DTYPES)}"


def shown(value: object) -> str:
    """Return a value of a config.json as part of a sentence."""
    if value is None or isinstance(value, bool | str | int | float | list | dict):
        return json.dumps(value)[:60]
    return str(value)[:60]
