"""Tokenizer and generation files next to trained weights.

The model keeps its chat template, and stops at the end of a turn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from trainer.export import tokenizer_files

END_OF_SEQUENCE = 1


def write_tokenizer_files(base: Path, folder: Path) -> Any:
    folder.mkdir()
    tokenizer_files.add_tokenizer(base, folder)
    return GenerationConfig.from_pretrained(folder)


@pytest.mark.parametrize(
    ("config", "template"),
    [
        ({"eos_token_id": 1, "top_k": 64}, None),  # as in pretrained Gemma models
        ({"eos_token_id": [1, "END"]}, None),
        (None, None),
        ({"eos_token_id": 1}, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"),
    ],
)
def test_generation_stops_at_the_end_of_a_turn(tmp_path: Path, tiny: Path, config: Any, template: str | None) -> None:
    ends = AutoTokenizer.from_pretrained(tiny).convert_tokens_to_ids("<end_of_turn>")
    path = tiny_copy(tiny, tmp_path / "base") / "generation_config.json"
    if config is None:
        path.unlink()
    else:
        path.write_text(json.dumps(config).replace('"END"', str(ends)))
    if template is not None:  # a template whose turns do not end with a special token
        (path.parent / "chat_template.jinja").write_text(template)
    written = write_tokenizer_files(path.parent, tmp_path / "trained")
    if template is None:
        assert written.eos_token_id == [END_OF_SEQUENCE, ends]
    else:
        assert written.eos_token_id == END_OF_SEQUENCE
    assert written.top_k == (64 if config and "top_k" in config else GenerationConfig().top_k)


def tiny_copy(tiny: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in tiny.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder
