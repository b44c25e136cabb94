"""Gemma models that are not supported, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

# Reasons by model_type of config.json.
BY_MODEL_TYPE: Mapping[str, str] = {
    "paligemma": "PaliGemma needs a different image processor and a prefix mask",
    "recurrent_gemma": "RecurrentGemma has recurrent blocks",
    "t5gemma": "T5Gemma is an encoder-decoder model",
    "t5gemma2": "T5Gemma 2 is an encoder-decoder model",
    "gemma3_text_embedding": "EmbeddingGemma makes embeddings, not text",
    "diffusion_gemma": "DiffusionGemma does not predict the next token",
    "vaultgemma": "VaultGemma has not been tested with this trainer",
    "shieldgemma2": "ShieldGemma 2 classifies pictures",
    "gemma4_assistant": "an assistant of Gemma 4 drafts tokens for a larger model",
    "gemma4_unified_assistant": "an assistant of Gemma 4 drafts tokens for a larger model",
}

# Reasons by part of a repository's name. The config.json of EmbeddingGemma says gemma3_text, so only its name
# identifies it.
BY_NAME: Mapping[str, str] = {
    "paligemma": BY_MODEL_TYPE["paligemma"],
    "paligemma2": BY_MODEL_TYPE["paligemma"],
    "recurrentgemma": BY_MODEL_TYPE["recurrent_gemma"],
    "t5gemma": BY_MODEL_TYPE["t5gemma"],
    "t5gemma-2": BY_MODEL_TYPE["t5gemma2"],
    "embeddinggemma": BY_MODEL_TYPE["gemma3_text_embedding"],
    "diffusiongemma": BY_MODEL_TYPE["diffusion_gemma"],
    "vaultgemma": BY_MODEL_TYPE["vaultgemma"],
    "shieldgemma-2-4b": BY_MODEL_TYPE["shieldgemma2"],
    "assistant": BY_MODEL_TYPE["gemma4_assistant"],
    "gguf": "a GGUF file cannot be trained: use the model it was converted from",
}
