"""Names of the classes of transformers that Gemma 1, 2 and 3 are made of, for who gives parts other functions."""

from __future__ import annotations

NORMS = {"GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm"}
MLPS = {"GemmaMLP", "Gemma2MLP", "Gemma3MLP"}
ATTENTIONS = {"GemmaAttention", "Gemma2Attention", "Gemma3Attention"}
LAYERS = {"GemmaDecoderLayer", "Gemma2DecoderLayer", "Gemma3DecoderLayer"}
