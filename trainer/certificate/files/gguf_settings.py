"""Check of the hyperparameters of GGUF and mmproj files against config.json.

Some of them do not show on short rows, such as which layers have a window, and others not in logits of texts.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemtune.families.configs.sections import language_model
from trainer.conversation.chat_template import json_object
from trainer.gguf.file_layout import contents

# A setting: a number, one number per layer, or a text.
Setting = float | str | list[Any] | None
# Keys of a GGUF file's metadata behind the architecture's name, keys of config.json that hold the same, and the value
# that llama.cpp takes if the file has none; without such a value the key has to be there.
HYPERPARAMETERS: tuple[tuple[str, tuple[str, ...], float | None], ...] = (
    ("context_length", ("max_position_embeddings",), None),
    ("embedding_length", ("hidden_size",), None),
    ("block_count", ("num_hidden_layers",), None),
    ("attention.head_count", ("num_attention_heads",), None),
    ("attention.layer_norm_rms_epsilon", ("rms_norm_eps",), None),
    ("attention.sliding_window", ("sliding_window",), None),
    ("attention.shared_kv_layers", ("num_kv_shared_layers",), 0.0),
    ("embedding_length_per_layer_input", ("hidden_size_per_layer_input",), 0.0),
    ("altup.active_idx", ("altup_active_idx",), None),
    ("altup.num_inputs", ("altup_num_inputs",), None),
    ("expert_count", ("num_experts",), 0.0),
    ("expert_used_count", ("num_experts_per_tok", "top_k_experts"), None),
    ("expert_feed_forward_length", ("moe_intermediate_size", "expert_intermediate_size"), None),
)
# Settings that a model has or lacks: without a value in config.json, the file has none either. The second ones are of
# rotary embeddings of the type "yarn", with their names in config.json.
OPTIONAL = ("attn_logit_softcapping", "final_logit_softcapping")
OF_YARN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("original_context_length", ("original_max_position_embeddings",)),
    ("yarn_ext_factor", ("extrapolation_factor",)),
    ("yarn_attn_factor", ("attention_factor", "attn_factor")),
    ("yarn_beta_fast", ("beta_fast",)),
    ("yarn_beta_slow", ("beta_slow",)),
)
# Every so many layers one has no window, in the architectures for which a file does not say which.
WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6}
# The base of rotary position embeddings of a file that states none.
DEFAULT_ROPE_BASE = 10_000.0
# Types of rotary position embeddings that do not divide positions. "proportional" leaves some dimensions alone, which a
# tensor of the file says.
UNSCALED = ("default", "proportional")
# Keys of an mmproj file's metadata, and keys of `vision_config`.
OF_VISION = (
    ("patch_size", "patch_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.layer_norm_epsilon", "layer_norm_eps"),
    ("block_count", "num_hidden_layers"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
)
# The same of an audio tower, with a number that the value in config.json is multiplied with, and the value if it states
# none.
OF_AUDIO: tuple[tuple[str, str, int, float | None], ...] = (
    ("num_mel_bins", "input_feat_size", 1, 128),
    ("attention.head_count", "num_attention_heads", 1, None),
    ("attention.layer_norm_epsilon", "layer_norm_eps", 1, 1e-6),
    ("block_count", "num_hidden_layers", 1, None),
    ("embedding_length", "hidden_size", 1, None),
    ("feed_forward_length", "hidden_size", 4, None),
)
# Settings of an mmproj file that follow from the type of the model, and those of models that hear.
FIXED: Mapping[str, Mapping[str, Setting]] = {
    "gemma3": {"clip.projector_type": "gemma3", "clip.use_gelu": True, "clip.has_vision_encoder": True},
    "gemma4": {"clip.vision.projector_type": "gemma4v", "clip.has_vision_encoder": True},
}
HEARING: Mapping[str, Setting] = {"clip.audio.projector_type": "gemma4a", "clip.has_audio_encoder": True}
# Files with the settings of the image processor, the later ones of higher precedence, as for llama.cpp's converter.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# The sides of a picture's patches that become one token, and their number if an mmproj file does not say it.
POOLING, DEFAULT_POOLING = "clip.vision.projector.scale_factor", 4


def with_defaults(config: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return a config.json with the defaults of transformers.

    The config.json of a published model omits values that are the defaults of its class. base: the folder of the model.
    """
    from transformers import AutoConfig

    return _completed(config, AutoConfig.from_pretrained(base).to_dict())


def _completed(stated: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    completed = dict(defaults)
    for key, value in stated.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            completed[key] = _completed(value, default)
        elif value is not None or key not in defaults:
            completed[key] = value
    return completed


def keys(arch: str) -> set[str]:
    """Return the keys of hyperparameters that `problems` compares."""
    return {f"{arch}.{key}" for key in (*_expected({}, arch, {}), *_optional({}))}


def problems(metadata: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return in sentences which hyperparameters of a file are wrong.

    metadata: of a GGUF file. config: config.json of the model, with defaults.
    """
    text = language_model(config)
    arch = str(metadata.get("general.architecture"))
    wrong = []
    for key, (expected, default) in _expected(text, arch, metadata).items():
        actual = metadata.get(f"{arch}.{key}", default)
        if expected is not None and not is_same(expected, actual):
            wrong.append(f"{arch}.{key} is {actual}, not {expected}")
    for key, value in _optional(text).items():
        actual = metadata.get(f"{arch}.{key}")
        if not (actual is None if value is None else is_same(value, actual)):
            wrong.append(f"{arch}.{key} is {actual}, not {value}")
    return wrong


def _expected(text: Mapping[str, Any], arch: str, metadata: Mapping[str, Any]) -> dict[str, tuple[Setting, Setting]]:
    """Return the values that a file must have, and those it need not state.

    None is a value that config.json does not state, or an obligation to state it.
    """
    expected: dict[str, tuple[Setting, Setting]] = {
        key: (next((text[name] for name in names if text.get(name) is not None), None), default)
        for key, names, default in HYPERPARAMETERS
    }
    size, kinds = text.get("head_dim"), text.get("layer_types") or []
    is_window = [kind == "sliding_attention" for kind in kinds]
    # If global layers have heads of another size, `head_dim` is that of layers with a window.
    whole = _of_whole_layers(text, "global_head_dim", "head_dim") or size
    for part in ("key", "value"):
        expected[f"attention.{part}_length"] = (whole, None)
        expected[f"attention.{part}_length_swa"] = (size, whole)
    # All dimensions are rotated; those of which ROPE_FACTORS stops the rotation count as well.
    expected["rope.dimension_count"] = (whole, whole)
    expected["rope.dimension_count_swa"] = (size, whole)
    expected["attention.head_count_kv"] = (_heads_of_keys(text, is_window), None)
    expected["feed_forward_length"] = (_widths(text), None)
    period = WINDOW_PERIODS.get(arch)
    by_period = None if period is None else [(layer + 1) % period > 0 for layer in range(len(is_window))]
    expected["attention.sliding_window_pattern"] = (is_window or None, by_period)
    expected["rope.freq_base"] = (_rope_base(text, "full_attention", "rope_theta"), DEFAULT_ROPE_BASE)
    expected["rope.freq_base_swa"] = (_rope_base(text, "sliding_attention", "rope_local_base_freq"), DEFAULT_ROPE_BASE)
    sparsity = text.get("activation_sparsity_pattern")
    expected["activation_sparsity_scale"] = (sparsity and [_deviations(share) for share in sparsity], None)
    kind, factor = _rope_scaling(text)
    expected["rope.scaling.factor"] = (factor, 1.0)
    expected["rope.scaling.type"] = (kind, kind if kind == "none" else "linear")
    return expected


def _deviations(share: float) -> float:
    """Return how many standard deviations a share of normal values is below."""
    import torch

    return float(torch.distributions.normal.Normal(0, 1).icdf(torch.tensor(share)))


def _optional(text: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings that a file has only if config.json states them."""
    parameters = _rope_parameters(text)
    of_yarn = parameters if parameters.get("rope_type") == "yarn" else {}
    return {key: text.get(key) for key in OPTIONAL} | {
        f"rope.scaling.{key}": next((of_yarn[name] for name in names if of_yarn.get(name) is not None), None)
        for key, names in OF_YARN
    }


def _of_whole_layers(text: Mapping[str, Any], name: str, name_by_layer: str) -> float | None:
    """Return a setting of layers without a window, if it differs there."""
    if text.get(name) is not None:
        return float(text[name])
    kinds = text.get("layer_types") or []
    by_layer = {int(layer): settings for layer, settings in (text.get("per_layer_config") or {}).items()}
    values = [
        each[name_by_layer]
        for layer, each in sorted(by_layer.items())
        if layer < len(kinds) and kinds[layer] == "full_attention" and name_by_layer in each
    ]
    return float(values[0]) if values else None


def _heads_of_keys(text: Mapping[str, Any], is_window: list[bool]) -> Setting:
    """Return how many heads keys and values have, by layer if it differs."""
    heads = text.get("num_key_value_heads")
    whole = _of_whole_layers(text, "num_global_key_value_heads", "num_key_value_heads")
    return heads if whole is None else [heads if each else whole for each in is_window]


def _widths(text: Mapping[str, Any]) -> Setting:
    """Return the width of MLPs, by layer if some have twice the width."""
    width = text.get("intermediate_size")
    if not text.get("use_double_wide_mlp") or width is None:
        return width
    layers = int(text["num_hidden_layers"])
    own = layers - int(text.get("num_kv_shared_layers") or 0)
    return [width if layer < own else 2 * width for layer in range(layers)]


def _rope_base(text: Mapping[str, Any], kind: str, older_key: str) -> float | None:
    """Return the base of rotary embeddings of a kind of layer, if stated."""
    parameters = text.get("rope_parameters")
    if isinstance(parameters, dict):
        of_kind = parameters.get(kind)
        section = of_kind if isinstance(of_kind, dict) else parameters if kind == "full_attention" else {}
        base = section.get("rope_theta")
        return None if base is None else float(base)
    base = text.get(older_key)
    return None if base is None else float(base)


def _rope_scaling(text: Mapping[str, Any]) -> tuple[str, float]:
    """Return how layers without a window scale positions, and the divisor."""
    parameters = _rope_parameters(text)
    kind, factor = parameters.get("rope_type", parameters.get("type", "default")), parameters.get("factor")
    return ("none", 1.0) if kind in UNSCALED or factor is None else (str(kind), float(factor))


def _rope_parameters(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of rotary embeddings of layers without a window."""
    stated = text.get("rope_parameters") or text.get("rope_scaling") or {}
    return stated.get("full_attention") or stated


def projector_problems(path: Path, base: Path) -> list[str]:
    """Return which settings of an mmproj file differ from the training's.

    base: folder of the base model. Unified models have no tower, and numbers of heads and patches that nothing reads.
    Raises InvalidGguf.
    """
    config = json_object(base / "config.json")
    vision = config.get("vision_config") or {}
    if config.get("model_type") == "gemma4_unified":
        return []
    file = contents(path)
    expected = _of_projector(config, base)
    wrong = [
        f"{key} of {path.name} is {file.metadata.get(key)}, not {value}"
        for key, value in expected.items()
        if value is not None and not is_same(value, file.metadata.get(key))
    ]
    pooling = file.metadata.get(POOLING, DEFAULT_POOLING)
    if config.get("model_type") == "gemma3" and (tokens := config.get("mm_tokens_per_image")) is not None:
        sides = int(vision["image_size"]) // int(vision["patch_size"]) // math.isqrt(int(tokens))
        if sides != pooling:
            wrong.append(f"{POOLING} of {path.name} is {pooling}, not {sides}")
    more = sorted(key for key in file.keys - {*expected, POOLING} if not key.startswith("general."))
    return wrong + [f"{path.name} has the setting {key}, which the model does not" for key in more]


def _of_projector(config: Mapping[str, Any], base: Path) -> dict[str, Setting]:
    """Return the settings that an mmproj file has.

    None stands for any value.
    """
    kind, vision, audio = str(config.get("model_type")), config.get("vision_config") or {}, config.get("audio_config")
    width = language_model(config).get("hidden_size")
    processor: dict[str, Any] = {}
    for name in PROCESSORS:
        stated = json_object(base / name)
        processor |= stated | stated.get("image_processor", {})
    # The size of pictures of Gemma 4 is any number, which nothing reads.
    expected: dict[str, Setting] = {"image_size": vision.get("image_size") if kind == "gemma3" else None}
    expected |= {key: vision.get(name) for key, name in OF_VISION}
    expected |= {key: processor.get(key) for key in ("image_mean", "image_std")} | {"projection_dim": width}
    settings = {f"clip.vision.{key}": value for key, value in expected.items()} | dict(FIXED.get(kind, {}))
    if audio is None:
        return settings
    of_audio: dict[str, Setting] = {"projection_dim": width}
    for key, name, factor, default in OF_AUDIO:
        stated = audio.get(name, default)
        of_audio[key] = None if stated is None else factor * stated
    return settings | {f"clip.audio.{key}": value for key, value in of_audio.items()} | dict(HEARING)


def is_same(expected: Setting, actual: Setting) -> bool:
    """Return whether a file holds a setting.

    It may hold one number for all layers or one for each.
    """
    if isinstance(expected, list) or isinstance(actual, list):
        count = max(len(each) for each in (expected, actual) if isinstance(each, list))
        ours, theirs = (each if isinstance(each, list) else [each] * count for each in (expected, actual))
        return len(ours) == len(theirs) and all(map(is_same, ours, theirs))
    if isinstance(expected, int | float) and isinstance(actual, int | float):
        return struct.pack("<f", expected) == struct.pack("<f", actual)  # numbers of a file are of float32
    return expected == actual
