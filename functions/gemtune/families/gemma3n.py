"""Gemma 3n: per-layer inputs, alternating updates (AltUp), and shared keys."""

from __future__ import annotations

from gemtune.families.configs.defaults import Defaults
from gemtune.families.generation import AudioFormat, Family, ModelType, PictureFormat, TurnFormat
from gemtune.families.llama_shapes import LlamaCpp, Sparsity
from gemtune.families.size import Layers, ModelSize

_FIXED = {
    "hidden_size_per_layer_input": 256,
    "laurel_rank": 64,
    "altup_num_inputs": 4,
    "altup_active_idx": 0,
    "altup_correct_scale": True,
    "final_logit_softcapping": 30.0,
}
_NO_GGUF = "llama.cpp's vision and audio encoders of Gemma 3n were not compared with transformers"
_NO_ADAPTER = "vLLM does not support LoRA adapters of Gemma 3n: serve the merged model"

# The first 20 layers have their own keys and values, which the others share. Every fifth layer is global.
_E2B = ModelSize(
    5_439_438_272, 2048, (Layers(20, 8192, 2048, 512), Layers(10, 8192, 2048, 0)), 262_400, per_layer_input=256
)
_E4B = ModelSize(
    7_849_978_192, 2048, (Layers(20, 16384, 2048, 512), Layers(15, 16384, 2048, 0)), 262_400, per_layer_input=256
)

GEMMA_3N = Family(
    name="Gemma 3n",
    model_types={
        "gemma3n": ModelType(
            why_no_pictures=None, why_no_audio=None, why_no_gguf=_NO_GGUF, why_no_vllm_adapter=_NO_ADAPTER,
            feature_extractor="gemma3n.feature_extraction_gemma3n.Gemma3nAudioFeatureExtractor", needs_timm=True,
        ),
        "gemma3n_text": ModelType(why_no_vllm_adapter=_NO_ADAPTER),
    },
    names=("gemma-3n",),
    sizes={"gemma-3n-e2b": _E2B, "gemma-3n-e4b": _E4B},
    turns=TurnFormat("<start_of_turn>", "<end_of_turn>", "gemma3n_chat_template.jinja"),
    llama_cpp=LlamaCpp(
        adds_rows=True, fixed=_FIXED, layers_with_keys=20, sparsity=Sparsity(10, 0.95, 2048)
    ),
    licence="gemma", heads_divide_width=True, widths_by_layer=True,
    never_null=("hidden_activation", "final_logit_softcapping", "sliding_window"),
    defaults=Defaults(262_400, 2048, 35, 8, 2, num_kv_shared_layers=15, global_every=5),
    pictures=PictureFormat(
        "image_token", around="\n\n", by_aspect_ratio=False, type_ids="token_type_ids", trains_tower=False,
        processor="siglip.image_processing_pil_siglip.SiglipImageProcessorPil",
    ),
    audio=AudioFormat("\n\n", soft_id=262_273, fixed_tokens=188, depends_on_batch=True),
    multimodal_modules=("vision_tower", "audio_tower", "embed_vision", "embed_audio"),
    audio_modules=("audio_tower", "embed_audio"),
    unquantized=(
        "per_layer_input_gate", "per_layer_projection", "per_layer_model_projection", "altup_projections",
        "altup_unembed_projections", "laurel.linear_left", "laurel.linear_right", "altup.modality_router",
        "altup.prediction_coefs", "altup.correction_coefs",
    ),
)  # fmt: skip
