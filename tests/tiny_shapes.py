"""Shapes of tiny Gemmas: transformers' configurations, small.

Each keeps the ratios of the real models of its generation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

# Tokens around and in a picture, by the names under which transformers' processor looks them up.
OF_PICTURES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
TOKENS_PER_PICTURE, PICTURE_SIZE = 4, 56
# Tokens of an audio clip, enough for five seconds. The real Gemma 3n has 188.
TOKENS_PER_CLIP = 32
# Audio samples per soft token of a unified Gemma 4: 25 soft tokens per second, as in the real ones.
SAMPLES_PER_TOKEN = 640
_GEMMA_4_TURNS = (
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|think|>",
    '<|"|>',
)
_GEMMA_4_MEDIA = {
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "audio_token": "<|audio|>",
    "video_token": "<|video|>",
}

_GEMMA_3N_MEDIA = {
    "boi_token": "<start_of_image>",
    "boa_token": "<start_of_audio>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
    "eoa_token": "<end_of_audio>",
    "audio_token": "<audio_soft_token>",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Architecture, chat template and special tokens of a tiny model.

    build: makes the model from a tokenizer and a head dimension.
    ends: tokens that end an answer.
    media_tokens: tokens by their names in transformers' processor.
    """

    build: Callable[[Any, int], Any]
    template: str = "gemma_chat_template.jinja"
    turn_tokens: tuple[str, ...] = ("<start_of_turn>", "<end_of_turn>")
    ends: tuple[str, ...] = ("<end_of_turn>",)
    media_tokens: Mapping[str, str] = field(default_factory=dict)
    add_processor: Callable[[Any, Path], None] | None = None


def _common(tokenizer: Any, head_dim: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": head_dim,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }


def _sliding(head_dim: int) -> dict[str, Any]:
    return {"query_pre_attn_scalar": head_dim, "sliding_window": 64}


def _gemma1(tokenizer: Any, head_dim: int) -> Any:
    import transformers

    config = transformers.GemmaConfig(**_common(tokenizer, head_dim), num_hidden_layers=2)
    return transformers.GemmaForCausalLM(config)


def _gemma2(tokenizer: Any, head_dim: int) -> Any:
    import transformers

    config = transformers.Gemma2Config(**_common(tokenizer, head_dim), **_sliding(head_dim), num_hidden_layers=2)
    return transformers.Gemma2ForCausalLM(config)


def _gemma3_text(tokenizer: Any, head_dim: int) -> Any:
    import transformers

    return transformers.Gemma3ForCausalLM(_gemma3_config(tokenizer, head_dim))


def _gemma3_config(tokenizer: Any, head_dim: int) -> Any:
    import transformers

    return transformers.Gemma3TextConfig(**_common(tokenizer, head_dim), **_sliding(head_dim), num_hidden_layers=6)


def _gemma3(tokenizer: Any, head_dim: int) -> Any:
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in OF_PICTURES.items()}
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": PICTURE_SIZE,
        "patch_size": 14,
        "vision_use_head": False,
    }
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=_gemma3_config(tokenizer, head_dim),
            vision_config=tower,
            mm_tokens_per_image=TOKENS_PER_PICTURE,
            boi_token_index=ids["boi_token"],
            eoi_token_index=ids["eoi_token"],
            image_token_index=ids["image_token"],
        )
    )
    # transformers initializes the projector with zeros: until it is trained, pictures would have no effect.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return model


def _gemma3_processor(tokenizer: Any, folder: Path) -> None:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    # Mean, deviation and resampling as in google/gemma-3-4b-it.
    pictures = Gemma3ImageProcessorPil(
        size={"height": PICTURE_SIZE, "width": PICTURE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    Gemma3Processor(
        image_processor=pictures,
        tokenizer=tokenizer,
        image_seq_length=TOKENS_PER_PICTURE,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    _name_as_on_the_hub(folder / "model.safetensors")


def _name_as_on_the_hub(weights: Path) -> None:
    """Rename the weights of the vision tower as they are named on the Hub.

    There the paths have one component more than transformers' modules.
    """
    from safetensors.torch import load_file, save_file

    named = {n.replace("vision_tower.", "vision_tower.vision_model."): w for n, w in load_file(weights).items()}
    save_file(named, weights, metadata={"format": "pt"})


# In Gemma 4 every fifth or sixth layer has global attention, here every third.
_LAYER_TYPES = ["sliding_attention", "sliding_attention", "full_attention"] * 2
_E = {"num_kv_shared_layers": 3, "use_double_wide_mlp": True, "hidden_size_per_layer_input": 16}
_LARGE = {
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "num_key_value_heads": 2,
    "num_attention_heads": 4,
    "use_bidirectional_attention": "vision",
}
_EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}


def _gemma4_text_settings(tokenizer: Any, head_dim: int, **more: Any) -> dict[str, Any]:
    return (
        _common(tokenizer, head_dim)
        | {
            "num_hidden_layers": 6,
            "layer_types": list(_LAYER_TYPES),
            "sliding_window": 64,
            "global_head_dim": 2 * head_dim,
            "final_logit_softcapping": 30.0,
            "vocab_size_per_layer_input": len(tokenizer),
        }
        | more
    )


def _gemma4_text(**more: Any) -> Callable[[Any, int], Any]:
    def build(tokenizer: Any, head_dim: int) -> Any:
        from transformers import Gemma4ForCausalLM, Gemma4TextConfig

        return _scaled(Gemma4ForCausalLM(Gemma4TextConfig(**_gemma4_text_settings(tokenizer, head_dim, **more))))

    return build


def _gemma4(*, hears: bool, **more: Any) -> Callable[[Any, int], Any]:
    def build(tokenizer: Any, head_dim: int) -> Any:
        from transformers import Gemma4Config, Gemma4ForConditionalGeneration

        tower = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "position_embedding_size": 64,
        }
        audio = {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "output_proj_dims": 32,
            "subsampling_conv_channels": [128, 8],
        }
        config = Gemma4Config(
            text_config=_gemma4_text_settings(tokenizer, head_dim, **more),
            vision_config=tower,
            audio_config=audio if hears else None,
            **_gemma4_media_ids(tokenizer),
        )
        return _scaled(Gemma4ForConditionalGeneration(config))

    return build


def _gemma4_unified_text_settings(tokenizer: Any, head_dim: int) -> dict[str, Any]:
    settings = _gemma4_text_settings(tokenizer, head_dim, **_LARGE)
    return {name: value for name, value in settings.items() if not name.endswith("per_layer_input")}


def _gemma4_unified_text(tokenizer: Any, head_dim: int) -> Any:
    from transformers import Gemma4UnifiedForCausalLM, Gemma4UnifiedTextConfig

    settings = _gemma4_unified_text_settings(tokenizer, head_dim)
    return _scaled(Gemma4UnifiedForCausalLM(Gemma4UnifiedTextConfig(**settings)))


def _gemma4_unified(tokenizer: Any, head_dim: int) -> Any:
    import torch
    from transformers import Gemma4UnifiedConfig, Gemma4UnifiedForConditionalGeneration

    settings = _gemma4_unified_text_settings(tokenizer, head_dim)
    config = Gemma4UnifiedConfig(
        text_config=settings,
        vision_config={
            "patch_size": 4,
            "pooling_kernel_size": 3,
            "mm_embed_dim": 32,
            "output_proj_dims": 32,
            "mm_posemb_size": 70,
        },
        audio_config={"audio_embed_dim": SAMPLES_PER_TOKEN},
        **_gemma4_media_ids(tokenizer),
    )
    model = _scaled(Gemma4UnifiedForConditionalGeneration(config))
    # Its table of positions begins as zeros: until it is trained, the places of patches would have no effect.
    torch.nn.init.normal_(model.model.embed_vision.pos_embedding)
    return model


def _gemma4_media_ids(tokenizer: Any) -> dict[str, Any]:
    names = {"eoa_token": "eoa_token_index"}
    return {
        names.get(name, f"{name}_id"): tokenizer.convert_tokens_to_ids(token) for name, token in _GEMMA_4_MEDIA.items()
    }


def _scaled(model: Any) -> Any:
    """Randomize norms and scales, so that a test notices one left out.

    In a new model they are all one.
    """
    import torch

    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(("norm.weight", "layernorm.weight", "layer_scalar", "per_expert_scale", "router.scale")):
            weight.data.copy_(1 + 0.2 * torch.rand_like(weight))
    return model


def _gemma3n_text(tokenizer: Any, head_dim: int) -> Any:
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    return _scaled(Gemma3nForCausalLM(Gemma3nTextConfig(**_gemma3n_settings(tokenizer, head_dim))))


def _gemma3n_settings(tokenizer: Any, head_dim: int) -> dict[str, Any]:
    return _common(tokenizer, head_dim) | {
        "num_hidden_layers": 6,
        "layer_types": list(_LAYER_TYPES),
        "sliding_window": 64,
        "num_kv_shared_layers": 3,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": len(tokenizer),
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.95] * 2 + [0.0] * 4,
        "intermediate_size": [128] * 6,
    }


def gemma3n_settings(tokenizer: Any, head_dim: int) -> dict[str, Any]:
    """Return the settings of a Gemma 3n with towers.

    Its tokens that end pictures or sounds, and their soft tokens, have embeddings of their own behind the text's. The
    vision tower is the real one, with few channels inside.
    """
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _GEMMA_3N_MEDIA.items()}
    assert [ids[name] - ids["eoi_token"] for name in ("image_token", "eoa_token", "audio_token")] == [1, 2, 3]
    audio = {
        "vocab_size": 2,
        "vocab_offset": ids["eoa_token"],
        "hidden_size": 32,
        "conf_num_attention_heads": 2,
        "conf_num_hidden_layers": 1,
        "sscp_conv_channel_size": [8, 8],
    }
    tower = {
        "architecture": "mobilenetv5_300m_enc",
        "model_args": {"channel_multiplier": 0.02, "msfa_output_resolution": math.isqrt(TOKENS_PER_PICTURE)},
        "hidden_size": 2048,
        "vocab_size": 2,
        "vocab_offset": ids["eoi_token"],
    }
    return {
        "text_config": _gemma3n_settings(tokenizer, head_dim),
        "vision_config": tower,
        "audio_config": audio,
        "vision_soft_tokens_per_image": TOKENS_PER_PICTURE,
        "audio_soft_tokens_per_image": TOKENS_PER_CLIP,
    } | {f"{name}_id": number for name, number in ids.items()}


def _gemma3n(tokenizer: Any, head_dim: int) -> Any:
    from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration

    return _scaled(Gemma3nForConditionalGeneration(Gemma3nConfig(**gemma3n_settings(tokenizer, head_dim))))


def gemma3n_processor(tokenizer: Any, folder: Path) -> None:
    """Write the processor's files as in Google's repositories."""
    import json

    pictures = {
        "image_processor_type": "SiglipImageProcessorFast",
        "feature_extractor_type": "Gemma3nAudioFeatureExtractor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": False,
        "do_convert_rgb": None,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 64, "width": 64},
    }
    processor: dict[str, Any] = {"processor_class": "Gemma3nProcessor", "image_seq_length": TOKENS_PER_PICTURE}
    processor["audio_seq_length"] = TOKENS_PER_CLIP
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2))
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2))


def _gemma4_shape(build: Callable[[Any, int], Any], *, media: bool, kind: str = "Gemma4") -> Shape:
    return Shape(
        build,
        "gemma4_chat_template.jinja",
        _GEMMA_4_TURNS,
        ("<turn|>", "<|tool_response>"),
        _GEMMA_4_MEDIA if media else {},
        partial(_gemma4_processor, kind) if media else None,
    )


def _gemma4_processor(kind: str, tokenizer: Any, folder: Path) -> None:
    """Write processor_config.json as in Google's repositories.

    kind: how the names of transformers' classes begin.
    """
    import json

    pictures = {
        "image_processor_type": f"{kind}ImageProcessor",
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "max_soft_tokens": 70,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": False,
        "do_convert_rgb": True,
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    audio: dict[str, Any] = {"feature_extractor_type": f"{kind}AudioFeatureExtractor", "sampling_rate": 16_000}
    if kind == "Gemma4Unified":
        audio |= {"feature_size": SAMPLES_PER_TOKEN, "audio_samples_per_token": SAMPLES_PER_TOKEN}
    processor = {
        "processor_class": f"{kind}Processor",
        "image_processor": pictures,
        "image_seq_length": 70,
        "feature_extractor": audio,
    }
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2))


SHAPES: Mapping[str, Shape] = {
    "gemma": Shape(_gemma1),
    "gemma2": Shape(_gemma2),
    "gemma3": Shape(_gemma3_text),
    "gemma3-vision": Shape(_gemma3, media_tokens=OF_PICTURES, add_processor=_gemma3_processor),
    "gemma3n-text": Shape(_gemma3n_text, "gemma3n_chat_template.jinja"),
    # Building it needs timm and torchvision.
    "gemma3n": Shape(
        _gemma3n, "gemma3n_chat_template.jinja", media_tokens=_GEMMA_3N_MEDIA, add_processor=gemma3n_processor
    ),
    "gemma4-e-text": _gemma4_shape(_gemma4_text(**_E), media=False),
    "gemma4-dense-text": _gemma4_shape(_gemma4_text(**_LARGE), media=False),
    "gemma4-moe-text": _gemma4_shape(_gemma4_text(**_LARGE, **_EXPERTS), media=False),
    "gemma4-unified-text": _gemma4_shape(_gemma4_unified_text, media=False),
    "gemma4-e": _gemma4_shape(_gemma4(hears=True, **_E), media=True),
    "gemma4-dense": _gemma4_shape(_gemma4(hears=False, **_LARGE), media=True),
    "gemma4-moe": _gemma4_shape(_gemma4(hears=False, **_LARGE, **_EXPERTS), media=True),
    "gemma4-unified": _gemma4_shape(_gemma4_unified, media=True, kind="Gemma4Unified"),
}
