"""Gemma 2, with ShieldGemma 1, TxGemma and DataGemma."""

from __future__ import annotations

from gemtune.families.configs.defaults import Defaults
from gemtune.families.generation import Family, FusedLayers, ModelType, TurnFormat
from gemtune.families.llama_shapes import LlamaCpp
from gemtune.families.size import uniform_size

_2B = uniform_size(2_614_341_888, 26, 2304, 9216, 2048, 1024, 256_000, capped_heads=8)
_9B = uniform_size(9_241_705_984, 42, 3584, 14336, 4096, 2048, 256_000, capped_heads=16)
_27B = uniform_size(27_227_128_320, 46, 4608, 36864, 4096, 2048, 256_000, capped_heads=32)

GEMMA_2 = Family(
    name="Gemma 2",
    model_types={"gemma2": ModelType()},
    names=("gemma-2", "shieldgemma-2b", "shieldgemma-9b", "shieldgemma-27b", "txgemma", "datagemma"),
    sizes={
        "gemma-2-2b": _2B, "shieldgemma-2b": _2B, "txgemma-2b": _2B,
        "gemma-2-9b": _9B, "shieldgemma-9b": _9B, "txgemma-9b": _9B,
        "gemma-2-27b": _27B, "shieldgemma-27b": _27B, "txgemma-27b": _27B,
        "datagemma-rag-27b": _27B, "datagemma-rig-27b": _27B,
    },
    turns=TurnFormat("<start_of_turn>", "<end_of_turn>", "gemma_chat_template.jinja"),
    licence="gemma", heads_divide_width=True, never_null=("hidden_activation",),
    defaults=Defaults(256_000, 2304, 26, 8, 4, global_every=2),
    llama_cpp=LlamaCpp(window_period=2, capped_scores=True, fixed_rope_base=True, layers_scaled_by_share=46),
    fused=FusedLayers("Gemma2RMSNorm", "Gemma2MLP", "Gemma2Attention", "Gemma2DecoderLayer"),
)  # fmt: skip
