"""What training leaves beside the weights: everything that the model needs to speak as it was taught."""

from __future__ import annotations

import shutil
from pathlib import Path

from gemtune.spec import Method
from trainer.chat_template import ChatTemplate, json_object

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "generation_config.json",
    "preprocessor_config.json",  # how the model reads pictures, where it does
    "processor_config.json",
)


def place_of(method: Method) -> str:
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
