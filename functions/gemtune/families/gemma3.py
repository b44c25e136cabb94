"""Gemma 3, with MedGemma, TranslateGemma and FunctionGemma."""

from __future__ import annotations

from dataclasses import replace

from gemtune.families.configs.defaults import Defaults
from gemtune.families.generation import (
    NO_VISION_TOWER,
    Family,
    FusedLayers,
    ModelType,
    PictureFormat,
    TurnFormat,
)
from gemtune.families.llama_shapes import LlamaCpp
from gemtune.families.size import uniform_size

_TURNS = TurnFormat("<start_of_turn>", "<end_of_turn>", "gemma_chat_template.jinja")
_270M = uniform_size(268_098_176, 18, 640, 2048, 1024, 256, 262_144)
_1B = uniform_size(999_885_952, 26, 1152, 6912, 1024, 256, 262_144)
_4B = uniform_size(4_300_079_472, 34, 2560, 10240, 2048, 1024, 262_208)
_12B = uniform_size(12_187_325_040, 48, 3840, 15360, 4096, 2048, 262_208)
_27B = uniform_size(27_432_406_640, 62, 5376, 21504, 4096, 2048, 262_208)

GEMMA_3 = Family(
    name="Gemma 3",
    model_types={"gemma3": ModelType(why_no_pictures=None), "gemma3_text": ModelType()},
    names=("gemma-3", "medgemma", "translategemma", "functiongemma"),
    names_without_pictures=dict.fromkeys(
        ("gemma-3-270m", "gemma-3-1b", "functiongemma-270m", "medgemma-27b-text"), NO_VISION_TOWER
    ),
    sizes={
        "gemma-3-270m": _270M, "functiongemma-270m": _270M, "gemma-3-1b": _1B,
        "gemma-3-4b": _4B, "medgemma-4b": _4B, "medgemma-1.5-4b": _4B, "translategemma-4b": _4B,
        "gemma-3-12b": _12B, "translategemma-12b": _12B,
        "gemma-3-27b": _27B, "medgemma-27b": _27B, "translategemma-27b": _27B,
    },
    turns=_TURNS,
    tool_turns=(  # FunctionGemma's
        replace(
            _TURNS,
            tool_call=("<start_function_call>", "<end_function_call>"),
            tool_result=("<start_function_response>", "<end_function_response>"),
            reserved=("<start_function_declaration>", "<end_function_declaration>", "<escape>"),
        ),
    ),
    licence="gemma", heads_divide_width=True, never_null=("hidden_activation",),
    defaults=Defaults(262_208, 2304, 26, 8, 4, global_every=6, global_every_field="sliding_window_pattern"),
    llama_cpp=LlamaCpp(
        untied_head=True, window_period=6, rope_types=("default", "linear", "yarn"), layers_scaled_by_share=62
    ),
    pictures=PictureFormat(
        written="boi_token", around="\n\n", by_aspect_ratio=False, type_ids="token_type_ids", trains_tower=True,
        processor="gemma3.image_processing_pil_gemma3.Gemma3ImageProcessorPil", tower_type="siglip_vision_model",
    ),
    multimodal_modules=("vision_tower", "multi_modal_projector"),
    fused=FusedLayers("Gemma3RMSNorm", "Gemma3MLP", "Gemma3Attention", "Gemma3DecoderLayer"),
)  # fmt: skip
