"""What lies beside trained weights: the model speaks as it was taught, and stops where it was taught to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from trainer.export import tokenizer_files

END_OF_SEQUENCE = 1


def beside(base: Path, folder: Path) -> Any:
    folder.mkdir()
    tokenizer_files.add_tokenizer(base, folder)
    return GenerationConfig.from_pretrained(folder)


@pytest.mark.parametrize(
    ("said", "template"),
    [
        ({"eos_token_id": 1, "top_k": 64}, None),  # as pretrained Gemmas have it
        ({"eos_token_id": [1, "END"]}, None),
        (None, None),
        ({"eos_token_id": 1}, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"),
    ],
)
def test_an_answer_ends_where_a_turn_does(tmp_path: Path, tiny: Path, said: Any, template: str | None) -> None:
    ends = AutoTokenizer.from_pretrained(tiny).convert_tokens_to_ids("<end_of_turn>")
    path = tiny_copy(tiny, tmp_path / "base") / "generation_config.json"
    if said is None:
        path.unlink()
    else:
        path.write_text(json.dumps(said).replace('"END"', str(ends)))
    if template is not None:  # one whose turns end with no token of their own
        (path.parent / "chat_template.jinja").write_text(template)
    found = beside(path.parent, tmp_path / "trained")
    if template is None:
        assert found.eos_token_id == [END_OF_SEQUENCE, ends]
    else:
        assert found.eos_token_id == END_OF_SEQUENCE
    assert found.top_k == (64 if said and "top_k" in said else GenerationConfig().top_k)


def tiny_copy(tiny: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in tiny.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder
