"""Gemma 1 and 1.1, with CodeGemma."""

from __future__ import annotations

from gemtune.families.configs.defaults import Defaults
from gemtune.families.generation import Family, FusedLayers, ModelType, TurnFormat
from gemtune.families.llama_shapes import LlamaCpp
from gemtune.families.size import uniform_size

_2B = uniform_size(2_506_172_416, 18, 2048, 16384, 2048, 256, 256_000)
_7B = uniform_size(8_537_680_896, 28, 3072, 24576, 4096, 4096, 256_000)

GEMMA_1 = Family(
    name="Gemma 1",
    model_types={"gemma": ModelType()},
    names=("gemma-2b", "gemma-7b", "gemma-1.1", "codegemma"),
    sizes={
        "gemma-2b": _2B, "gemma-1.1-2b": _2B, "codegemma-2b": _2B, "codegemma-1.1-2b": _2B,
        "gemma-7b": _7B, "gemma-1.1-7b": _7B, "codegemma-7b": _7B, "codegemma-1.1-7b": _7B,
    },
    turns=TurnFormat("<start_of_turn>", "<end_of_turn>", "gemma_chat_template.jinja"),
    licence="gemma",
    defaults=Defaults(256_000, 3072, 28, 16, 16),
    llama_cpp=LlamaCpp(fixed_rope_base=True),
    fused=FusedLayers("GemmaRMSNorm", "GemmaMLP", "GemmaAttention", "GemmaDecoderLayer"),
)  # fmt: skip
