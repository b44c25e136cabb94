"""Fields of the parts of a config.json that see or hear.

The types are those of transformers' classes for the towers of all generations: it reads no other ones. The rules were
tried with tiny models, which transformers did not build, or which failed with a picture or a clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt
from typing import Any

from gemtune.families.configs.fields import is_count, shown, too_small, wrong_types
from gemtune.families.configs.sections import language_model, towers
from gemtune.families.configs.shapes import ACTIVATIONS, unshared_heads

_SIZES = (
    *(
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ),
    *("max_position_embeddings", "num_channels", "image_size", "patch_size", "pooling_kernel_size"),
    *("position_embedding_size", "mm_embed_dim", "mm_posemb_size", "output_proj_dims", "audio_embed_dim"),
    *("vocab_size", "input_feat_size", "attention_chunk_size", "conv_kernel_size", "conf_attention_chunk_size"),
    *("conf_num_attention_heads", "conf_num_hidden_layers", "conf_conv_kernel_size", "conf_reduction_factor"),
)
_COUNTS_FROM_ZERO = (
    *("vocab_offset", "attention_context_left", "attention_context_right"),
    *("conf_attention_context_left", "conf_attention_context_right"),
)
_NUMBERS = (
    *("layer_norm_eps", "rms_norm_eps", "initializer_range", "attention_dropout", "gradient_clipping"),
    *("residual_weight", "attention_logit_cap", "attention_invalid_logits_value", "conf_attention_logit_cap"),
    *("conf_residual_weight", "sscp_conv_group_norm_eps"),
)
_PAIRS = ("subsampling_conv_channels", "sscp_conv_channel_size")
_PAIRS_OF_PAIRS = ("sscp_conv_kernel_size", "sscp_conv_stride_size")
TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys((*_SIZES, *_COUNTS_FROM_ZERO), (int,)),
    **dict.fromkeys(_NUMBERS, (float,)),
    **dict.fromkeys(("vision_use_head", "standardize", "use_clipped_linears", "do_pooling"), (bool,)),
    **dict.fromkeys(("hidden_act", "hidden_activation", "architecture"), (str,)),
    **dict.fromkeys(("rope_parameters", "model_args"), (dict, type(None))),
    **dict.fromkeys((*_PAIRS, *_PAIRS_OF_PAIRS), (list,)),
    "attention_bias": (bool, type(None)),
}
# The same where a class of towers takes others.
TYPES_BY_CLASS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "siglip_vision_model": {"attention_dropout": (int, float)}
}
_SMALLEST: Mapping[str, int] = {
    **dict.fromkeys(_SIZES, 1),
    **dict.fromkeys((*_COUNTS_FROM_ZERO, "layer_norm_eps", "rms_norm_eps", "initializer_range"), 0),
}
# All processors of Gemma read pictures in red, green and blue.
CHANNELS = 3
# Towers rotate by two coordinates, each of which needs a pair of numbers.
SMALLEST_HEAD = 4
# Gemma 3n's vision encoder, a model of timm: the width of its output, and the side of the square of its soft tokens.
ENCODER, ENCODER_WIDTH, ENCODER_SIDE = "mobilenetv5_300m_enc", 2048, 16
# The first of the tokens whose embeddings are in the vision tower of Gemma 3n, and their number; as many follow in the
# audio tower. Both are defaults of transformers.
VISION_TOKENS, TOWER_TOKENS = 262_144, 128
# Arguments for the encoder; published models have none.
ENCODER_ARGUMENTS: Mapping[str, tuple[type, ...]] = {
    "channel_multiplier": (int, float),
    "msfa_output_resolution": (int,),
}
# Soft tokens along the longer side of any picture of Gemma 4: a square one of 70, the fewest that its processors make,
# has 8 by 8.
LONGER_SIDE = 8
# The second one is what transformers made of the first in earlier versions.
ROPE_TYPES = ("axial", "default")


def wrong_towers(config: Mapping[str, Any], tower_type: str | None) -> Iterator[str]:
    """Yield why transformers does not build or compute a tower.

    tower_type: the `model_type` of the vision tower, where transformers chooses its class by that.
    """
    for name, tower in towers(config):
        of = f" of {name}"
        kind = tower.get("model_type", tower_type)
        if name == "vision_config" and tower_type is not None and kind != tower_type:
            yield f"model_type{of} is {shown(kind)} in its config.json, and {tower_type} in any model"
        yield from wrong_types(tower, {**TYPES, **TYPES_BY_CLASS.get(str(kind), {})}, of)
        yield from too_small(tower, _SMALLEST, of)
        yield from (f"{reason} in {name} of its config.json" for reason in _contradictions(tower))
    yield from _other_pictures(config)
    yield from _null_tokens(config)
    vision = dict(towers(config)).get("vision_config", {})
    if config.get("model_type") == "gemma3n":
        yield from _other_encoder(vision, config)
        yield from _uncovered_tokens(vision, config)
    if config.get("model_type") == "gemma4" and vision.get("pooling_kernel_size") == 1:
        yield "pooling_kernel_size of vision_config is 1 in its config.json, which transformers does not compute"


def _contradictions(tower: Mapping[str, Any]) -> Iterator[str]:
    """Yield which values of a tower contradict each other or its task."""
    for name in ("hidden_act", "hidden_activation"):
        if name in tower and tower[name] not in ACTIVATIONS:
            yield f"transformers has no activation {shown(tower[name])}, which is"
    if not 0 <= tower.get("attention_dropout", 0) < 1:
        yield f"attention_dropout is {shown(tower['attention_dropout'])}, and not from 0 to 1,"
    heads = tower.get("num_attention_heads", tower.get("conf_num_attention_heads"))
    hidden, head = tower.get("hidden_size"), tower.get("head_dim")
    if heads is not None and hidden is not None and head is None and hidden % heads:
        yield f"hidden_size is {hidden}, not a multiple of {heads} attention heads,"
    if head is not None and (head < SMALLEST_HEAD or head % 2):
        yield f"head_dim is {head}, and not an even number from {SMALLEST_HEAD} on,"
    yield from unshared_heads(heads, tower.get("num_key_value_heads"))
    if tower.get("num_channels", CHANNELS) != CHANNELS:
        yield f"num_channels is {tower['num_channels']}, and pictures have {CHANNELS},"
    if {"image_size", "patch_size"} <= set(tower) and tower["patch_size"] > tower["image_size"]:
        yield f"patch_size is {tower['patch_size']}, more than image_size {tower['image_size']},"
    widths = [tower[name] for name in ("mm_embed_dim", "output_proj_dims") if name in tower]
    if "mm_embed_dim" in tower and len(set(widths)) > 1:
        yield f"mm_embed_dim is {widths[0]}, and output_proj_dims {widths[1]},"
    yield from _odd_lists(tower)
    pooling = tower.get("pooling_kernel_size", 3)
    for name, least in (("position_embedding_size", LONGER_SIDE * pooling), ("mm_posemb_size", LONGER_SIDE)):
        if tower.get(name, least) < least:
            yield f"{name} is {tower[name]}, and pictures have {least} patches and more along a side,"
    rotation = tower.get("rope_parameters") or {}
    if (kind := rotation.get("rope_type", ROPE_TYPES[0])) not in ROPE_TYPES:
        yield f"rope_type is {shown(kind)}, not one of {', '.join(ROPE_TYPES)},"
    if type(base := rotation.get("rope_theta", 1.0)) not in (int, float) or not base > 0:
        yield f"rope_theta is {shown(base)}, and not a number above 0,"


def _odd_lists(tower: Mapping[str, Any]) -> Iterator[str]:
    for name in _PAIRS:
        if name in tower and not _is_pair(tower[name]):
            yield f"{name} is {shown(tower[name])}, and not two whole numbers above 0,"
    for name in _PAIRS_OF_PAIRS:
        if name in tower and not (len(tower[name]) == 2 and all(_is_pair(each) for each in tower[name])):
            yield f"{name} is {shown(tower[name])}, and not two pairs of whole numbers above 0,"


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_count(each) for each in value)


def _other_pictures(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield that patches of a picture cannot become so many soft tokens.

    Gemma 3 takes the mean of squares of patches.
    """
    tokens, vision = config.get("mm_tokens_per_image"), dict(towers(config)).get("vision_config", {})
    if tokens is None or not {"image_size", "patch_size"} <= set(vision):
        return
    patches, side = vision["image_size"] // vision["patch_size"], isqrt(tokens)
    if side**2 != tokens or side > patches or patches // (patches // side) != side:
        yield f"its mm_tokens_per_image is {tokens}, which {patches} x {patches} patches of a picture do not make"


def _null_tokens(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield which tokens are null that transformers needs for texts, too."""
    for name in ("image_token_index", "image_token_id"):
        if config.get("model_type") == "gemma3" and config.get(name, 0) is None:
            yield f"{name} is null in its config.json, and transformers looks for that token in every row"
    if (
        config.get("model_type") in ("gemma4", "gemma4_unified")
        and language_model(config).get("pad_token_id", 0) is None
    ):
        yield "pad_token_id is null in its config.json, and transformers puts that token in the place of pictures"


def _other_encoder(vision: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the vision encoder of a Gemma 3n differs from the only one.

    timm does not build others, or the model does not take their features.
    """
    for name, usual in (("architecture", ENCODER), ("hidden_size", ENCODER_WIDTH)):
        if (value := vision.get(name, usual)) != usual:
            yield f"{name} of vision_config is {shown(value)} in its config.json, and {usual} in any model"
    arguments = vision.get("model_args") or {}
    yield from wrong_types(arguments, ENCODER_ARGUMENTS, " of model_args")
    yield from too_small(arguments, dict.fromkeys(ENCODER_ARGUMENTS, 0), " of model_args")
    for name in (name for name in arguments if name not in ENCODER_ARGUMENTS):
        yield f"model_args of vision_config has {name} in its config.json, and in no model"
    if arguments.get("channel_multiplier", 1) > 1:
        yield f"its encoder has {shown(arguments['channel_multiplier'])} times the channels of any model"
    tokens = arguments.get("msfa_output_resolution", ENCODER_SIDE) ** 2
    if (expected := config.get("vision_soft_tokens_per_image", tokens)) != tokens:
        yield f"its vision_soft_tokens_per_image is {expected}, and its encoder makes {tokens}"


def _uncovered_tokens(vision: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield which tokens of a Gemma 3n have no embedding in either tower.

    transformers looks up there all tokens from the first one of the vision tower on.
    """
    audio = dict(towers(config)).get("audio_config", {})
    end = vision.get("vocab_offset", VISION_TOKENS) + vision.get("vocab_size", TOWER_TOKENS)
    if end < (first := audio.get("vocab_offset", VISION_TOKENS + TOWER_TOKENS)):
        yield f"the tokens of vision_config end before those of audio_config in its config.json: {end}, {first}"
    end = first + audio.get("vocab_size", TOWER_TOKENS)
    if (tokens := language_model(config).get("vocab_size", end)) > end:
        yield f"its vocab_size is {tokens}, and its towers have embeddings of tokens below {end}"
