"""The chat template of a GGUF file, which llama.cpp's programs use."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trainer.conversation.chat_template import ChatTemplate
from trainer.gguf.llama_library import LlamaModel


def read(model: LlamaModel, tokenizer_config: dict[str, Any]) -> ChatTemplate:
    """Return the chat template in a file.

    tokenizer_config: has the special tokens, as tokenizer_config.json. Raises StepError `template_failed`,
    `template_missing`.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "chat_template.jinja").write_text(model.chat_template or "")
        return ChatTemplate(Path(folder), tokenizer_config)
