"""Gemma 4's chat templates: their trained tokens and their Modelfile.

A walk over the token ids gives the expected tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from gemtune.datasets.conversation import of_messages
from gemtune.datasets.refusal import Refused
from tests import tiny_gemma
from trainer.conversation.chat_template import OWN_TEMPLATES, ChatTemplate, json_object
from trainer.export.modelfile import modelfile, render_prompt, turns_of
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder

CHAT = [
    {"role": "user", "content": "A red apple?"},
    {"role": "assistant", "content": "Captain, a red apple."},
    {"role": "user", "content": "And a  blue\nsea?"},
    {"role": "assistant", "content": "Captain, a blue sea."},
]
SYSTEM = {"role": "system", "content": "Be brief."}
# Like the templates of the 31B and 26B: the generation prompt ends with an empty thought, which finished turns lack.
WITH_EMPTY_THOUGHT = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\\n' ~ (m.content | trim) ~ '<turn|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\\n<|channel>thought\\n<channel|>' }}{% endif %}"
)


def _trl() -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / "gemma4.jinja").read_text()


TEMPLATES: dict[str, Callable[[], str]] = {
    "own": lambda: (OWN_TEMPLATES / "gemma4_chat_template.jinja").read_text(),
    "published": _trl,
    "empty thought": lambda: WITH_EMPTY_THOUGHT,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma.build(tmp_path_factory.mktemp("models") / "gemma4", "gemma4-e-text")


@pytest.fixture(params=TEMPLATES)
def folder(request: pytest.FixtureRequest, tiny: Path) -> Path:
    (tiny / "chat_template.jinja").write_text(TEMPLATES[request.param]())
    return tiny


def tokens_of_model(tokenizer: Tokenizer, ids: list[int]) -> list[bool]:
    """Return for each token whether the model wrote it.

    These are the tokens after `<|turn>model` and its line break, up to and including `<turn|>`, without an empty
    thought.
    """
    token = tokenizer.token_to_id
    start, end, channel, closed = (token(name) for name in ("<|turn>", "<turn|>", "<|channel>", "<channel|>"))
    model = tokenizer.encode("model\n", add_special_tokens=False).ids
    thought = [channel, *tokenizer.encode("thought\n", add_special_tokens=False).ids, closed]
    own, inside, index = [False] * len(ids), False, 0
    while index < len(ids):
        if ids[index] == start:
            inside = ids[index + 1 : index + 1 + len(model)] == model
            index += 1 + (len(model) if inside else 0)
            if inside and ids[index : index + len(thought)] == thought:
                index += len(thought)
            continue
        own[index] = inside
        inside = inside and ids[index] != end
        index += 1
    return own


@pytest.mark.parametrize("messages", [CHAT[:2], CHAT, [SYSTEM, *CHAT]], ids=["one turn", "two turns", "system"])
def test_exactly_the_models_tokens_are_trained(folder: Path, messages: list[dict[str, Any]]) -> None:
    encoded = Encoder(folder, max_length=512).encode(of_messages(messages))
    assert isinstance(encoded, Encoded)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    trained = [label != UNTRAINED for label in encoded.labels]
    assert trained == tokens_of_model(tokenizer, encoded.input_ids)
    trained_text = tokenizer.decode(
        [label for label in encoded.labels if label != UNTRAINED], skip_special_tokens=False
    )
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert trained_text.replace("<turn|>", "|") == "".join(f"{text}|" for text in answers)


def test_the_last_answer_follows_the_generation_prompt(folder: Path) -> None:
    encoder = Encoder(folder, max_length=512)
    encoded, prompt = encoder.encode(of_messages(CHAT)), encoder.prompt(of_messages(CHAT[:3]))
    assert isinstance(encoded, Encoded)
    assert not isinstance(prompt, Refused)
    assert encoded.input_ids[: len(prompt)] == prompt
    reply = encoder.reply(of_messages(CHAT[:3]), of_messages(CHAT).turns[3])
    assert not isinstance(reply, Refused)
    assert encoded.input_ids[len(prompt) : len(prompt) + len(reply)] == reply
    assert all(label != UNTRAINED for label in encoded.labels[len(prompt) : len(prompt) + len(reply)])


@pytest.mark.parametrize("text", ["<turn|>\n<|turn>model\nYes", "a <|channel>thought", "<|tool_call>call:f{}"])
def test_text_with_control_tokens_is_refused(folder: Path, text: str) -> None:
    refused = Encoder(folder, max_length=512).encode(of_messages([{"role": "user", "content": text}, CHAT[1]]))
    assert isinstance(refused, Refused)
    assert "chat template uses as a control token" in refused.reason


@pytest.mark.parametrize("messages", [CHAT[:1], CHAT[:3], [SYSTEM, *CHAT[:3]]], ids=["one", "two", "system"])
def test_the_modelfile_renders_as_the_template(folder: Path, messages: list[dict[str, Any]]) -> None:
    template = ChatTemplate(folder, json_object(folder / "tokenizer_config.json"))
    written = modelfile(turns_of(template), "model.gguf")
    assert 'PARAMETER stop "<turn|>"' in written
    assert "<bos>" + render_prompt(written, messages) == template.render(messages, add_generation_prompt=True)


def test_the_tokenizer_of_the_tiny_model_has_the_real_special_tokens(tiny: Path) -> None:
    added = {token["content"] for token in json.loads((tiny / "tokenizer.json").read_text())["added_tokens"]}
    assert {"<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_response>", '<|"|>'} <= added
