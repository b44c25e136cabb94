"""Gemma models that are not supported, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gemtune.families.configs.sections import language_model

# Reasons by model_type of config.json.
BY_MODEL_TYPE: Mapping[str, str] = {
    "paligemma": "PaliGemma needs a different image processor and a prefix mask",
    "recurrent_gemma": "RecurrentGemma has recurrent blocks",
    "t5gemma": "T5Gemma is an encoder-decoder model",
    "t5gemma2": "T5Gemma 2 is an encoder-decoder model",
    "gemma3_text_embedding": "EmbeddingGemma makes embeddings, not text",
    "embedding_gemma2": "EmbeddingGemma makes embeddings, not text",
    "embedding_gemma2_text": "EmbeddingGemma makes embeddings, not text",
    "diffusion_gemma": "DiffusionGemma does not predict the next token",
    "vaultgemma": "VaultGemma has not been tested with this trainer",
    "shieldgemma2": "ShieldGemma 2 classifies pictures",
    "gemma4_assistant": "an assistant of Gemma 4 drafts tokens for a larger model",
    "gemma4_unified_assistant": "an assistant of Gemma 4 drafts tokens for a larger model",
}

_QUANTIZED = "quantized weights cannot be trained: use the model that they were made from"
_CONVERTED = "a file for LiteRT, TensorFlow Lite or ONNX cannot be trained: use the model that it was converted from"

# Ends of the names of Gemma 4 to which Google added "-assistant".
_KINDS = ("", "-it", "-it-qat-q4_0-unquantized")

# Reasons by part of a repository's name.
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
    "gemma-scope": "Gemma Scope explains other models, and writes no text",
    "dolphingemma": "DolphinGemma predicts sounds of dolphins, not text",
    # Only the names of Google's drafting assistants: many people call a fine-tuned model an assistant.
    **dict.fromkeys(
        [f"gemma-4-{size}{kind}-assistant" for size in ("e2b", "e4b", "12b", "26b-a4b", "31b") for kind in _KINDS],
        BY_MODEL_TYPE["gemma4_assistant"],
    ),
    "gguf": "a GGUF file cannot be trained: use the model it was converted from",
    **dict.fromkeys(("litert", "tflite", "onnx"), _CONVERTED),
    **dict.fromkeys(
        (
            *(f"{bits}bit" for bits in range(2, 9)),
            *("awq", "dwq", "gptq", "exl2", "exl3"),
            *("fp8", "mxfp4", "mxfp8", "nvfp4", "int4", "int8", "w4a16", "w8a8"),
        ),
        _QUANTIZED,
    ),
}

_OTHER_FORMAT = "its files are not those of transformers: use the model without this word at the end of its name"

# Reasons by the end of a repository's name. Inside of a name, these words may say what a model is about.
BY_END: Mapping[str, str] = dict.fromkeys(
    ("keras", "flax", "jax", "pytorch", "sfp-cpp", "gemma-cpp", "mlx", "mlc"), _OTHER_FORMAT
)

# Reasons by owner, where all models of one are files for another program.
BY_OWNER: Mapping[str, str] = {"litert-community": _CONVERTED, "onnx-community": _CONVERTED}

# Parts of names of models that were trained to be quantized, and are not quantized.
UNQUANTIZED = ("int4-unquantized", "int8-unquantized")


def reason_of_fields(config: Mapping[str, Any]) -> str | None:
    """Return why a config.json of a supported type is not one to train.

    None if nothing in it speaks against that. EmbeddingGemma and classifiers have the type of the model they were made
    from, and so have quantized weights.
    """
    return next(_reasons([config, language_model(config)]), None)


def _reasons(parts: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the reasons in a config.json and its language model."""
    for part in parts:
        # Gemma 4 has "vision" there, which is about pictures only.
        if part.get("use_bidirectional_attention") in (True, "all"):
            yield "its tokens also see the tokens after them, as in EmbeddingGemma: it does not predict the next one"
        architectures = part.get("architectures")
        names = [str(name) for name in architectures] if isinstance(architectures, list) else []
        for name in names:
            if name.endswith("Classification"):
                yield f"it is a {name[:60]}, which classifies texts"
        for field in ("quantization_config", "quantization"):  # the second one is MLX's
            stored = part.get(field)
            if stored is not None and (stored or field == "quantization_config"):
                method = stored.get("quant_method") if isinstance(stored, Mapping) else None
                by = f" ({method[:40]})" if isinstance(method, str) else ""
                yield f"its weights are stored quantized{by}: use the model that they were made from"
