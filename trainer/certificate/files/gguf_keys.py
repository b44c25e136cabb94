"""Check that a GGUF file has no settings but those that are compared.

llama.cpp reads hundreds of keys, most of them for other models. One more key can end answers early, scale the
attention or propose another temperature, and neither logits nor prompts of a certificate show all of that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from trainer.certificate.files import vocabulary
from trainer.certificate.files.gguf_settings import is_same
from trainer.conversation.chat_template import json_object
from trainer.gguf.file_layout import Contents

# Descriptions of a file, such as its name and licence. Some of those keys change what llama.cpp does.
DESCRIPTIONS, EFFECTIVE = "general.", ("general.sampling.", "general.tensor_extra.")
# Whether the file has a model, an adapter or a projector; Ollama asks for it.
TYPE = "general.type"
# Keys of the vocabulary, which `vocabulary` compares, and of the chat template.
OF_VOCABULARY = {
    *vocabulary.ARRAYS,
    *(f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "bos_token_id", *vocabulary.ENDS)),
    *(f"tokenizer.ggml.{key}" for key, *_ in (*vocabulary.SPECIAL, *vocabulary.FLAGS)),
    "tokenizer.chat_template",
}
# Sampling that llama.cpp's server does unless a request says otherwise, and the names in generation_config.json.
SAMPLING: Mapping[str, tuple[str, ...]] = {
    "sequence": ("sequence",),
    "top_k": ("top_k",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "xtc_probability": ("xtc_probability",),
    "xtc_threshold": ("xtc_threshold",),
    "temp": ("temperature",),
    "penalty_last_n": ("penalty_last_n",),
    "penalty_repeat": ("penalty_repeat", "repetition_penalty"),
    "mirostat": ("mirostat",),
    "mirostat_tau": ("mirostat_tau",),
    "mirostat_eta": ("mirostat_eta",),
}
# Tokens that are never generated, which the converter writes for some models.
SUPPRESSED = "tokenizer.ggml.suppress_tokens"


def problems(file: Contents, trained: Path, hyperparameters: Collection[str]) -> list[str]:
    """Return in sentences which settings a file should not have, or not so.

    trained: folder with the generation config of training. hyperparameters: the keys of those that are compared.
    """
    stated = json_object(trained / "generation_config.json")
    kind = file.metadata.get(TYPE, "model")
    wrong = [] if kind == "model" else [f"{TYPE} is {kind!r}, not 'model'"]
    for key, names in SAMPLING.items():
        expected = next((stated[name] for name in names if stated.get(name) is not None), None)
        actual = file.metadata.get(f"general.sampling.{key}")
        if not is_same(expected, actual):
            wrong.append(f"general.sampling.{key} is {actual}, not {expected}")
    if SUPPRESSED in file.keys and file.metadata.get(SUPPRESSED) != stated.get("suppress_tokens"):
        wrong.append(f"{SUPPRESSED} is {file.metadata.get(SUPPRESSED)}, not {stated.get('suppress_tokens')}")
    compared = {SUPPRESSED, *OF_VOCABULARY, *hyperparameters, *(f"general.sampling.{key}" for key in SAMPLING)}
    return wrong + [_unexpected(key, file.metadata) for key in sorted(file.keys - compared) if not _describes(key)]


def _describes(key: str) -> bool:
    """Return whether a key only describes the file."""
    return key.startswith(DESCRIPTIONS) and not key.startswith(EFFECTIVE)


def _unexpected(key: str, metadata: Mapping[str, Any]) -> str:
    return f"it has the setting {key}, {metadata.get(key, '…')!r}, which the model does not"
