"""Types and ranges of the fields of a config.json.

The types are those of transformers' classes for the language models of all generations: it reads no other ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gemtune.families.configs.sections import TOWERS, language_model, towers

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
    **dict.fromkeys(("mm_tokens_per_image", "image_size", "patch_size", "num_channels", "input_feat_size"), 2**16),
    **dict.fromkeys(("vision_soft_tokens_per_image", "audio_soft_tokens_per_image"), 2**16),
    **dict.fromkeys(("position_embedding_size", "mm_posemb_size", "mm_embed_dim", "output_proj_dims"), 2**20),
    **dict.fromkeys(("audio_embed_dim", "pooling_kernel_size"), 2**16),
    **dict.fromkeys(("attention_chunk_size", "attention_context_left", "attention_context_right"), 2**16),
    **dict.fromkeys(("conf_attention_chunk_size", "conf_attention_context_left"), 2**16),
    **dict.fromkeys(("conf_attention_context_right", "conf_conv_kernel_size", "conv_kernel_size"), 2**16),
    **dict.fromkeys(("conf_reduction_factor", "subsampling_conv_channels", "sscp_conv_channel_size"), 2**16),
    "conf_num_attention_heads": 4096,
    "conf_num_hidden_layers": 1024,
    "vocab_offset": 2**24,
    "initializer_range": 1,
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
# The same of fields beside the language model, and of those that every section may have.
TYPES_OF_WHOLE: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("mm_tokens_per_image", "vision_soft_tokens_per_image", "audio_soft_tokens_per_image"), (int,)),
    "initializer_range": (float, _NULL),
    **dict.fromkeys(("tie_word_embeddings", "use_cache"), (bool,)),
}
SMALLEST_OF_WHOLE: Mapping[str, int] = {
    "mm_tokens_per_image": 1,
    "vision_soft_tokens_per_image": 1,
    "audio_soft_tokens_per_image": 1,
    "initializer_range": 0,
}
TYPES_OF_ANY: Mapping[str, tuple[type, ...]] = {"id2label": (dict, _NULL), "attribute_map": (dict,)}
_ITEMS: Mapping[str, type] = {"intermediate_size": int, "eos_token_id": int, "activation_sparsity_pattern": float}
_IN_WORDS = {int: "a whole number", float: "a number with a point", bool: "true or false", str: "a text"} | {
    list: "a list",
    dict: "an object",
    _NULL: "null",
}


def field_over_limit(config: Mapping[str, Any]) -> str | None:
    """Return the first field of a config.json that is too large, or None.

    The fields of its sections are checked too.
    """
    for part in (config, language_model(config), *(tower for _, tower in towers(config))):
        for name, most in LARGEST_VALUES.items():
            values = part[name] if isinstance(part.get(name), list) else [part.get(name)]
            if any(isinstance(value, int | float) and value > most for value in values):
                return name
    return None


def wrong_values(text: Mapping[str, Any], never_null: Sequence[str] = ()) -> Iterator[str]:
    """Yield which values have types or ranges that no model has.

    text: the fields of a language model. never_null: see `Family`.
    """
    yield from wrong_types(text, TYPES)
    if "hidden_activation" in text and text["hidden_activation"] is None and "hidden_act" not in text:
        yield "hidden_activation is null in its config.json, and not a text"
    for name in never_null:
        if name in text and text[name] is None:
            yield f"{name} is null in its config.json, and in no model of its generation"
    for name, kind in _ITEMS.items():
        if isinstance(items := text.get(name), list) and any(type(item) is not kind for item in items):
            yield f"an entry of {name} in its config.json is not {_IN_WORDS[kind]}: {shown(items)}"
    yield from too_small(text, _SMALLEST)
    dropout = text.get("attention_dropout")
    if isinstance(dropout, int | float) and not 0 <= dropout < 1:
        yield f"attention_dropout is {shown(dropout)} in its config.json, and not from 0 to 1"
    if isinstance(both_ways := text.get("use_bidirectional_attention"), str) and both_ways not in ("all", "vision"):
        yield f"use_bidirectional_attention is {shown(both_ways)} in its config.json, and no Gemma has that"


def wrong_types(fields: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], of: str = "") -> Iterator[str]:
    """Yield which fields have values of other types.

    of: the section that has them, as part of a sentence.
    """
    for name, expected in types.items():
        if name in fields and type(fields[name]) not in expected:
            words = " or ".join(_IN_WORDS[kind] for kind in expected)
            yield f"{name}{of} is {shown(fields[name])} in its config.json, and not {words}"


def too_small(fields: Mapping[str, Any], smallest: Mapping[str, int], of: str = "") -> Iterator[str]:
    """Yield which numbers are smaller than in any model.

    of: as in `wrong_types`.
    """
    for name, least in smallest.items():
        values = fields[name] if isinstance(fields.get(name), list) else [fields.get(name)]
        wrong = [each for each in values if isinstance(each, int | float) and each < least]
        if wrong:
            yield f"{name}{of} is {shown(wrong[0])} in its config.json, and at least {least} in any model"


def wrong_parts(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield which values around the language model have wrong types.

    config: of a model with several parts.
    """
    for name, value in config.items():
        is_part, is_token = name in TOWERS, name.endswith(("_token_id", "_token_index"))
        if is_part and value is not None and not isinstance(value, Mapping):
            yield f"{name} is {shown(value)} in its config.json, and not an object"
        if is_token and type(value) not in TYPES.get(name, (int, _NULL)):
            yield f"{name} is {shown(value)} in its config.json, and not a whole number"
    yield from wrong_types(config, TYPES_OF_WHOLE)
    yield from too_small(config, SMALLEST_OF_WHOLE)
    for part in (config, language_model(config), *(tower for _, tower in towers(config))):
        yield from wrong_types(part, TYPES_OF_ANY)
        for name in ("dtype", "torch_dtype"):
            value = part.get(name)
            if value is not None and (not isinstance(value, str) or value not in DTYPES):
                yield f"{name} is {shown(value)} in its config.json, and not one of {', '.join(DTYPES)}"


def is_count(value: object) -> bool:
    """Return whether a value is a whole number above 0."""
    return type(value) is int and value > 0


def shown(value: object) -> str:
    """Return a value of a config.json as part of a sentence."""
    if value is None or isinstance(value, bool | str | int | float | list | dict):
        return json.dumps(value)[:60]
    return str(value)[:60]
