"""Tokenizer, chat template and generation config, saved with trained weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.methods import Method
from trainer.base_model import folder_contents
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export import versions
from trainer.export.modelfile import hand_over_token, marker, turns_of
from trainer.new_tokens import embedding

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "generation_config.json",
    "preprocessor_config.json",  # this and the next file belong to models that read pictures
    "processor_config.json",
)


# Tokenizers, templates and processors, which are copied from the base model. config.json is rewritten.
COMPANION_FILES = ("*.json", "*.jinja", "tokenizer.model")
EXCLUDED_FILES = (
    "config.json",
    folder_contents.INDEX,
    "adapter_config.json",
    "manifest.json",
    versions.NAME,
    embedding.NAME,
)


def trained_folder(method: Method) -> str:
    """Return the job's folder for trained weights: "model" or "adapter"."""
    return "model" if method == "Full" else "adapter"


def add_tokenizer(base: Path, folder: Path) -> None:
    """Copy the base model's tokenizer and chat template to trained weights.

    The generation config is copied too, or written if the base model has none; answers end with the template's turns.
    """
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    # The template of training, whichever file of the base model it comes from; this name takes precedence over others.
    template = ChatTemplate(base, json_object(base / "tokenizer_config.json"))
    (folder / "chat_template.jinja").write_text(template.text)
    write_generation_config(base, folder)
    _end_answers(folder, template)


def copy_companion_files(source: Path, folder: Path) -> None:
    """Copy tokenizer, chat template and processor files from `source`."""
    for pattern in COMPANION_FILES:
        for path in source.glob(pattern):
            if path.name not in EXCLUDED_FILES:
                shutil.copyfile(path, folder / path.name)


def write_generation_config(base: Path, folder: Path) -> None:
    """Write generation_config.json if missing, so that generation stops.

    Its special tokens are those of the base model's config.json.
    """
    target = folder / "generation_config.json"
    if not target.exists():
        target.write_text(json.dumps(generation_config(base), indent=2) + "\n")


def generation_config(base: Path) -> dict[str, Any]:
    """Return the generation config of a base model that has no file of it."""
    config = folder_contents.config_of(base)
    return {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config}


def end_tokens(generation_config: Mapping[str, Any]) -> list[int]:
    """Return the tokens at which answers end."""
    ends = generation_config.get("eos_token_id")
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _end_answers(folder: Path, template: ChatTemplate) -> None:
    """Add the tokens that end an answer to `eos_token_id`.

    These are the token that ends a turn, and the one after which a model waits for the results of its calls. The
    generation config of pretrained models lacks them, so generation would go on after the answer.
    """
    from tokenizers import Tokenizer

    added = Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
    # The tokens of calls are not special in FunctionGemma's tokenizer, so that they stay when an answer is decoded.
    texts = {hand_over_token(template)} - {""}
    special = {each.content for each in added.values() if each.special}
    # Without this marker the template is more complex, and the end of turns in the base model's config stays.
    with suppress(StepError):
        texts |= {marker(turns_of(template).after_model)} & special
    path = folder / "generation_config.json"
    config = json_object(path)
    ends = end_tokens(config)
    missing = [index for index, each in sorted(added.items()) if each.content in texts and index not in ends]
    if missing:
        path.write_text(json.dumps(config | {"eos_token_id": [*ends, *missing]}, indent=2) + "\n")
