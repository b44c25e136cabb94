"""What training leaves beside the weights: everything that the model needs to speak as it was taught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

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
    "preprocessor_config.json",  # how the model reads pictures, where it does
    "processor_config.json",
)


def trained_folder(method: Method) -> str:
    """The folder of a job that what it trained lies under: an adapter, or a whole model."""
    return "model" if method == "Full" else "adapter"


def add_tokenizer(base: Path, folder: Path) -> None:
    """Copy the base model's tokenizer, chat template and generation config beside trained weights."""
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    # The very template that was trained with, wherever the base model keeps it; this name goes before all others.
    template = ChatTemplate(base, json_object(base / "tokenizer_config.json"))
    (folder / "chat_template.jinja").write_text(template.text)
    merge.write_generation_config(base, folder)
    _end_answers(folder, template)


def _end_answers(folder: Path, template: ChatTemplate) -> None:
    """Let what ends a turn end an answer: pretrained models know of no turns, and what runs them would go on."""
    from tokenizers import Tokenizer

    try:
        end = marker(turns_of(template).after_model)
    except StepError:  # a template that is more than words around turns: the base model's word stays
        return
    added = Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
    token = next((index for index, each in added.items() if each.special and each.content == end), None)
    path = folder / "generation_config.json"
    config = json_object(path)
    known = config.get("eos_token_id")
    ends = known if isinstance(known, list) else [] if known is None else [known]
    if token is not None and token not in ends:
        path.write_text(json.dumps(config | {"eos_token_id": [*ends, token]}, indent=2) + "\n")
