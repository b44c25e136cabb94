"""Tokenizer, chat template and generation config, saved with trained weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemtune.errors import StepError
from gemtune.methods import Method
from trainer.conversation.chat_template import ChatTemplate, json_object
from trainer.export import merge
from trainer.export.modelfile import marker, turns_of

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "generation_config.json",
    "preprocessor_config.json",  # this and the next file belong to models that read pictures
    "processor_config.json",
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
    merge.write_generation_config(base, folder)
    _end_answers(folder, template)


def end_tokens(generation_config: Mapping[str, Any]) -> list[int]:
    """Return the tokens at which answers end."""
    ends = generation_config.get("eos_token_id")
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _end_answers(folder: Path, template: ChatTemplate) -> None:
    """Add the token that ends a turn to `eos_token_id`.

    The generation config of pretrained models lacks it, so generation would go on after the answer.
    """
    from tokenizers import Tokenizer

    try:
        end = marker(turns_of(template).after_model)
    except StepError:  # a more complex template: the base model's generation config stays
        return
    added = Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
    token = next((index for index, each in added.items() if each.special and each.content == end), None)
    path = folder / "generation_config.json"
    config = json_object(path)
    ends = end_tokens(config)
    if token is not None and token not in ends:
        path.write_text(json.dumps(config | {"eos_token_id": [*ends, token]}, indent=2) + "\n")
