"""Gemma 4: E (per-layer inputs), dense, mixture-of-experts and unified models."""

from __future__ import annotations

from gemtune.families.configs.defaults import Defaults
from gemtune.families.generation import NO_AUDIO, Family, ModelType, PictureFormat, TurnFormat
from gemtune.families.llama_shapes import LlamaCpp
from gemtune.families.size import NO_TOWER, Experts, Layers, ModelSize, Tower

_VOCABULARY, _SMALL, _LARGE = 262_144, Tower(16, 768, 3072, 2520), Tower(27, 1152, 4304, 2520)
# Sliding and global layers, those with their own keys and values first. Global heads have 512 dimensions, others 256.
_E2B = ModelSize(
    5_123_171_872, 1536, vocabulary=_VOCABULARY, per_layer_input=256, tower=_SMALL, shapes=(
    Layers(12, 6144, 2048, 256), Layers(3, 6144, 4096, 512), Layers(16, 12288, 2048, 0), Layers(4, 12288, 4096, 0)),
)  # fmt: skip
_E4B = ModelSize(
    7_996_151_072, 2560, vocabulary=_VOCABULARY, per_layer_input=256, tower=_SMALL, shapes=(
    Layers(20, 10240, 2048, 512), Layers(4, 10240, 4096, 1024), Layers(15, 10240, 2048, 0), Layers(3, 10240, 4096, 0)),
)  # fmt: skip
_12B = ModelSize(
    11_944_951_552, 3840, (Layers(40, 15360, 4096, 2048), Layers(8, 15360, 8192, 512, one_projection=True)),
    _VOCABULARY, tower=NO_TOWER)  # fmt: skip
_26B = ModelSize(
    25_805_933_872, 2816, (Layers(25, 2112, 4096, 2048), Layers(5, 2112, 8192, 1024, one_projection=True)),
    _VOCABULARY, experts=Experts(128, 704, 8), tower=_LARGE)  # fmt: skip
_31B = ModelSize(
    31_273_086_512, 5376, (Layers(50, 21504, 8192, 4096), Layers(10, 21504, 16384, 2048, one_projection=True)),
    _VOCABULARY, tower=_LARGE)  # fmt: skip
_EAR = "{0}.feature_extraction_{0}.{1}AudioFeatureExtractor"

GEMMA_4 = Family(
    name="Gemma 4",
    model_types={
        "gemma4": ModelType(why_no_pictures=None, why_no_audio=None, feature_extractor=_EAR.format("gemma4", "Gemma4")),
        "gemma4_text": ModelType(),
        "gemma4_unified": ModelType(why_no_pictures=None, why_no_audio=None, encoder_free=True, tower="embed_vision",
                                    feature_extractor=_EAR.format("gemma4_unified", "Gemma4Unified")),
        "gemma4_unified_text": ModelType(why_no_gguf="llama.cpp's converter knows unified models with all parts only"),
    },
    names=("gemma-4",), names_without_audio=dict.fromkeys(("gemma-4-26b", "gemma-4-31b"), NO_AUDIO),
    sizes={"gemma-4-e2b": _E2B, "gemma-4-e4b": _E4B, "gemma-4-12b": _12B, "gemma-4-26b": _26B, "gemma-4-31b": _31B},
    turns=TurnFormat(
        "<|turn>", "<turn|>", "gemma4_chat_template.jinja",
        scanned=True, empty_thought="<|channel>thought\n<channel|>",
        tool_call=("<|tool_call>", "<tool_call|>"), tool_result=("<|tool_response>", "<tool_response|>"),
        reserved=("<|channel>", "<channel|>", "<|tool>", "<tool|>", "<|think|>", '<|"|>',
                  "<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>", "<audio|>", "<|video|>"),
    ),
    licence="apache-2.0", llama_cpp=LlamaCpp(untied_head=True, rope_types=("proportional",), matches_rows=False),
    pictures=PictureFormat(
        "image_token", "", by_aspect_ratio=True, type_ids="mm_token_type_ids", trains_tower=True,
        processor="gemma4.image_processing_pil_gemma4.Gemma4ImageProcessorPil",
    ),
    multimodal_modules=("vision_tower", "audio_tower", "embed_vision", "embed_audio", "vision_embedder"),
    audio_modules=("audio_tower", "embed_audio"), rotations_by_layer=True, global_head=512,
    defaults=Defaults(262_144, 2304, 30, 8, 4, global_every=6, last_is_global=True),
    experts=("experts.gate_up_proj", "experts.down_proj"), never_null=("hidden_activation", "sliding_window"),
    experts_limit="vLLM 0.33 needs --enable-mixed-moe-lora-format and is_3d_lora_weight, llama.cpp converts no experts",
    unquantized=("router.proj", "per_layer_input_gate", "per_layer_projection", "per_layer_model_projection"),
)  # fmt: skip
