"""Parts of config.json that see or hear: refused if they cannot be built."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from gemtune import families
from gemtune.families.configs import fields, vision_and_audio
from tests.unit.families.test_configs import ODD, TEXTS, is_read

# As Google's repositories have them, with the names of the classes that transformers reads them with.
_SIGLIP = {
    "hidden_size": 1152,
    "image_size": 896,
    "intermediate_size": 4304,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "vision_use_head": False,
}
_MOBILENET = {
    "architecture": "mobilenetv5_300m_enc",
    "do_pooling": False,
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "model_args": None,
    "model_type": "gemma3n_vision",
    "num_classes": 2,
    "rms_norm_eps": 1e-06,
    "torch_dtype": "bfloat16",
    "vocab_offset": 262_144,
    "vocab_size": 128,
}
_CONFORMER_3N = {
    "conf_attention_chunk_size": 12,
    "conf_attention_context_left": 13,
    "conf_attention_context_right": 0,
    "conf_attention_logit_cap": 50.0,
    "conf_conv_kernel_size": 5,
    "conf_num_attention_heads": 8,
    "conf_num_hidden_layers": 12,
    "conf_reduction_factor": 4,
    "conf_residual_weight": 0.5,
    "gradient_clipping": 10_000_000_000.0,
    "hidden_size": 1536,
    "input_feat_size": 128,
    "model_type": "gemma3n_audio",
    "rms_norm_eps": 1e-06,
    "sscp_conv_channel_size": [128, 32],
    "sscp_conv_kernel_size": [[3, 3], [3, 3]],
    "sscp_conv_stride_size": [[2, 2], [2, 2]],
    "vocab_offset": 262_272,
    "vocab_size": 128,
}
_GEMMA_4 = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "default_output_length": 280,
    "global_head_dim": 64,
    "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 131_072,
    "model_type": "gemma4_vision",
    "num_attention_heads": 12,
    "num_hidden_layers": 16,
    "num_key_value_heads": 12,
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "position_embedding_size": 10_240,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 100.0, "rope_type": "default"},
    "standardize": False,
    "use_clipped_linears": True,
}
WHOLES: Mapping[str, Mapping[str, Any]] = {
    "gemma3": {"mm_tokens_per_image": 256, "vision_config": _SIGLIP, "initializer_range": 0.02},
    "gemma3n": {
        "vision_soft_tokens_per_image": 256,
        "audio_soft_tokens_per_image": 188,
        "vision_config": _MOBILENET,
        "audio_config": _CONFORMER_3N,
    },
    "gemma4": {
        "vision_config": _GEMMA_4,
        "audio_config": {
            name: getattr(CONFIG_MAPPING["gemma4_audio"](), name) for name in ("hidden_size", "hidden_act")
        }
        | {"subsampling_conv_channels": [128, 32], "attention_invalid_logits_value": -1_000_000_000.0},
    },
    "gemma4_unified": {
        "vision_config": {"mm_embed_dim": 3840, "output_proj_dims": 3840, "patch_size": 16, "pooling_kernel_size": 3},
        "audio_config": {"audio_embed_dim": 640, "rms_norm_eps": 1e-06},
    },
}
CLASSES = {
    ("gemma3", "vision_config"): "siglip_vision_model",
    ("gemma3n", "vision_config"): "gemma3n_vision",
    ("gemma3n", "audio_config"): "gemma3n_audio",
    ("gemma4", "vision_config"): "gemma4_vision",
    ("gemma4", "audio_config"): "gemma4_audio",
    ("gemma4_unified", "vision_config"): "gemma4_unified_vision",
    ("gemma4_unified", "audio_config"): "gemma4_unified_audio",
}


def whole(model_type: str) -> dict[str, Any]:
    """Return the config.json of a model with towers as published ones have."""
    text = {"model_type": f"{model_type}_text"} | TEXTS[f"{model_type}_text"]
    return copy.deepcopy({"model_type": model_type, "text_config": text} | WHOLES[model_type])


# Types that transformers reads, and no model can be computed with.
READ_AND_NOT_COMPUTED = {"attention_dropout": {type(None)}, "image_size": {list}, "patch_size": {list}}


def stated_types(kind: str) -> Mapping[str, Any]:
    """Return what transformers states as the types of a class of towers."""
    annotations: Mapping[str, Any] = CONFIG_MAPPING[kind].__annotations__
    return annotations


@pytest.mark.parametrize("model_type", WHOLES)
def test_towers_as_published_ones_are_not_refused(model_type: str) -> None:
    config = whole(model_type)
    assert families.problem_of_config(config) is None
    assert is_read(config)
    for name in ("vision_config", "audio_config"):
        assert families.problem_of_config(config | {name: None}) is None
        assert families.problem_of_config({key: value for key, value in config.items() if key != name}) is None


@pytest.mark.parametrize(("model_type", "part"), CLASSES)
def test_a_tower_that_transformers_does_not_read_is_refused(model_type: str, part: str) -> None:
    late = []
    for name in {*stated_types(CLASSES[model_type, part]), *WHOLES[model_type][part], "id2label", "dtype"}:
        for value in ODD:
            config = whole(model_type)
            config[part][name] = value
            if families.problem_of_config(config) is None and not is_read(config):
                late.append({name: value})
    assert late == []


@pytest.mark.parametrize("model_type", WHOLES)
def test_a_field_beside_the_parts_that_transformers_does_not_read_is_refused(model_type: str) -> None:
    names = {*stated_types(model_type), *WHOLES[model_type], "id2label"} - {"text_config"}
    odd = ({name: value} for name in names for value in ODD)
    late = [
        field
        for field in odd
        if families.problem_of_config(whole(model_type) | field) is None and not is_read(whole(model_type) | field)
    ]
    assert late == []


@pytest.mark.parametrize("kind", CLASSES.values())
def test_every_field_of_a_tower_has_its_types(kind: str) -> None:
    assert set(stated_types(kind)) <= {*vision_and_audio.TYPES}
    for name, stated in stated_types(kind).items():
        kinds = {getattr(each, "__origin__", each) for each in get_args(stated) or (stated,)} - {tuple}
        ours = {**vision_and_audio.TYPES, **vision_and_audio.TYPES_BY_CLASS.get(kind, {})}
        assert kinds - READ_AND_NOT_COMPUTED.get(name, set()) == set(ours[name]), name


@pytest.mark.parametrize(("model_type", "part"), CLASSES)
def test_no_size_of_a_tower_is_without_bounds(model_type: str, part: str) -> None:
    for name, stated in stated_types(CLASSES[model_type, part]).items():
        limitless = name == "max_position_embeddings"  # nothing is as long as that
        for value in () if stated is not int else (-1,) if limitless else (-1, 10**15):
            config = whole(model_type)
            config[part][name] = value
            problem = families.problem_of_config(config)
            assert problem is not None, (name, value)
            assert problem.code == "bad_base_model"
            assert name in problem.msg


@pytest.mark.parametrize(
    ("model_type", "part", "odd", "reason"),
    [
        ("gemma3", "vision_config", {"hidden_size": 0}, "hidden_size of vision_config is 0"),
        ("gemma3", "vision_config", {"hidden_size": 1150}, "not a multiple of 16 attention heads, in vision_config"),
        ("gemma3", "vision_config", {"hidden_act": "gelu_tanh"}, 'no activation "gelu_tanh"'),
        ("gemma3", "vision_config", {"attention_dropout": 1.5}, "not from 0 to 1"),
        ("gemma3", "vision_config", {"num_channels": 1}, "pictures have 3"),
        ("gemma3", "vision_config", {"patch_size": 900}, "more than image_size 896"),
        ("gemma3", "vision_config", {"patch_size": 64}, "256, which 14 x 14 patches of a picture do not make"),
        ("gemma3", "vision_config", {"model_type": "clip_vision_model"}, "and siglip_vision_model in any model"),
        ("gemma3", "vision_config", {"dtype": "float8_e4m3fn"}, "not one of float32"),
        ("gemma3", "", {"mm_tokens_per_image": 250}, "250, which 64 x 64 patches of a picture do not make"),
        ("gemma3", "", {"mm_tokens_per_image": 0}, "at least 1"),
        ("gemma3", "", {"initializer_range": -0.02}, "at least 0"),
        ("gemma3", "", {"image_token_index": None}, "looks for that token in every row"),
        ("gemma4", "text_config", {"pad_token_id": None}, "puts that token in the place of pictures"),
        ("gemma4_unified", "text_config", {"pad_token_id": None}, "puts that token in the place of pictures"),
        ("gemma3n", "vision_config", {"architecture": 5}, "not a text"),
        ("gemma3n", "vision_config", {"architecture": "resnet18"}, "and mobilenetv5_300m_enc in any model"),
        ("gemma3n", "vision_config", {"model_args": {"depth": 3}}, "has depth in its config.json, and in no model"),
        ("gemma3n", "vision_config", {"model_args": {"channel_multiplier": 1e6}}, "1000000.0 times the channels"),
        ("gemma3n", "vision_config", {"model_args": {"msfa_output_resolution": 0.5}}, "not a whole number"),
        (
            "gemma3n",
            "vision_config",
            {"hidden_size": 1024},
            "hidden_size of vision_config is 1024 in its config.json, and 2048",
        ),
        ("gemma3n", "vision_config", {"model_args": {"msfa_output_resolution": 8}}, "256, and its encoder makes 64"),
        ("gemma3n", "text_config", {"vocab_size": 262_401}, "vocab_size is 262401, and its towers have embeddings"),
        ("gemma3n", "vision_config", {"vocab_size": 127}, "of vision_config end before those of audio_config"),
        ("gemma3n", "", {"vision_soft_tokens_per_image": 100}, "100, and its encoder makes 256"),
        ("gemma3n", "vision_config", {"vocab_size": -1}, "at least 1"),
        ("gemma3n", "audio_config", {"conf_num_attention_heads": 7}, "not a multiple of 7"),
        ("gemma3n", "audio_config", {"sscp_conv_channel_size": [128]}, "not two whole numbers above 0"),
        ("gemma3n", "audio_config", {"sscp_conv_stride_size": [[2, 2], [2, 0]]}, "not two pairs of whole numbers"),
        ("gemma4", "vision_config", {"num_key_value_heads": 5}, "12 attention heads cannot share 5 heads"),
        ("gemma4", "vision_config", {"head_dim": 2}, "not an even number from 4 on"),
        ("gemma4", "vision_config", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "not one of axial"),
        ("gemma4", "vision_config", {"rope_parameters": {"rope_theta": 0}}, "not a number above 0"),
        ("gemma4", "vision_config", {"initializer_range": -1.0}, "initializer_range of vision_config is -1.0"),
        ("gemma4", "vision_config", {"pooling_kernel_size": 1}, "1 in its config.json, which transformers does not"),
        ("gemma4", "vision_config", {"position_embedding_size": 23}, "23, and pictures have 24 patches and more"),
        ("gemma4", "audio_config", {"hidden_size": "1024"}, "not a whole number"),
        ("gemma4", "audio_config", {"attention_chunk_size": 0}, "at least 1"),
        ("gemma4", "audio_config", {"subsampling_conv_channels": []}, "not two whole numbers above 0"),
        ("gemma4_unified", "vision_config", {"output_proj_dims": 64}, "mm_embed_dim is 3840, and output_proj_dims 64"),
        ("gemma4_unified", "vision_config", {"mm_posemb_size": 7}, "7, and pictures have 8 patches and more"),
        ("gemma4_unified", "audio_config", {"audio_embed_dim": None}, "not a whole number"),
    ],
    ids=str,
)
def test_a_tower_that_transformers_cannot_compute_is_refused_with_the_reason(
    model_type: str, part: str, odd: dict[str, Any], reason: str
) -> None:
    config = whole(model_type)
    (config[part] if part else config).update(odd)
    problem = families.problem_of_config(config)
    assert problem is not None
    assert problem.code == "bad_base_model"
    assert reason in problem.msg


def test_limits_are_those_of_known_fields() -> None:
    typed = {*fields.TYPES, *fields.TYPES_OF_WHOLE, *vision_and_audio.TYPES}
    assert set(fields.LARGEST_VALUES) <= typed
