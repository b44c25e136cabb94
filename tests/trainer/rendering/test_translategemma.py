"""TranslateGemma's rows: its template writes an instruction from codes.

The trained tokens are compared with a walk over the token ids.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.formats import table
from gemtune.datasets.refusal import Refused
from gemtune.datasets.row_options import ReadOptions
from tests.conversations import conversation_of
from tests.trainer import variants
from trainer.base_model.folder_contents import config_of
from trainer.pictures.arrow_file import Picture
from trainer.pictures.tokens import picture_tokens
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder


def asked(text: str, source: str = "en", target: str = "de", **more: Any) -> dict[str, Any]:
    part = {"type": "text", "source_lang_code": source, "target_lang_code": target, "text": text}
    return {"role": "user", "content": [part | more]}


def answered(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


ROWS = {
    "one translation": [asked(" Good  morning.\n"), answered("Guten Morgen.")],
    "two translations": [
        asked("Thanks", "en_GB", "cs"),
        answered("Diky"),
        asked("Danke", "de-DE", "en"),
        answered("Thanks", weight=1),
    ],
    "a weight": [asked("Yes"), answered("Nein", weight=0), asked("Yes"), answered("Ja")],
}


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return variants.translategemma(tiny, tmp_path_factory.mktemp("models") / "translategemma")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(folder, max_length=512)


def refused(encoder: Encoder, messages: list[dict[str, Any]]) -> str:
    row = encoder.encode(conversation_of({"messages": messages}))
    assert isinstance(row, Refused), row
    return row.reason


def ids_of_transformers(folder: Path, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    from transformers import AutoTokenizer

    native = [{name: message[name] for name in ("role", "content")} for message in copy.deepcopy(messages)]
    return list(
        AutoTokenizer.from_pretrained(folder).apply_chat_template(native, return_dict=True, **options)["input_ids"]
    )


def tokens_of_model(folder: Path, ids: list[int]) -> list[list[int]]:
    """Return the indices of each answer's tokens.

    They are after `<start_of_turn>model` and its line break, up to `<end_of_turn>` and its line break.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start, end = (tokenizer.token_to_id(token) for token in ("<start_of_turn>", "<end_of_turn>"))
    model = tokenizer.encode("model\n", add_special_tokens=False).ids
    begins = [
        i + 1 + len(model) for i, token in enumerate(ids) if token == start and ids[i + 1 :][: len(model)] == model
    ]
    return [list(range(begin, ids.index(end, begin) + 2)) for begin in begins]


@pytest.mark.parametrize("name", ROWS)
def test_tokens_are_those_of_transformers_and_translations_are_trained(
    name: str, folder: Path, encoder: Encoder
) -> None:
    messages = ROWS[name]
    row = encoder.encode(conversation_of({"messages": messages}))
    assert isinstance(row, Encoded), row
    assert row.input_ids == ids_of_transformers(folder, messages)
    answers = tokens_of_model(folder, row.input_ids)
    own = messages[1::2]
    expected = {
        index for answer, message in zip(answers, own, strict=True) for index in answer if message.get("weight") != 0
    }
    assert {index for index, label in enumerate(row.labels) if label != UNTRAINED} == expected


def test_the_codes_change_the_prompt(folder: Path, encoder: Encoder) -> None:
    prompts = [
        encoder.prompt(conversation_of({"messages": [asked("Yes", *codes), answered("Ja")]}).first(1))
        for codes in (("en", "de"), ("de", "en"))
    ]
    assert prompts[0] == ids_of_transformers(folder, [asked("Yes")], add_generation_prompt=True)
    assert prompts[0] != prompts[1]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": "Yes"}, answered("Ja")], "source_lang_code, target_lang_code, text}"),
        ([{"role": "user", "content": [{"type": "text", "text": "Yes"}]}, answered("Ja")], "target_lang_code, text}"),
        ([asked("Yes", "tlh"), answered("Ja")], "does not know the language 'tlh'"),
        ([asked("Yes", "en", "x<escape>y"), answered("Ja")], "does not know the language 'x<escape>y'"),
        ([{"role": "system", "content": "Be polite."}, asked("Yes"), answered("Ja")], "no place for a system message"),
        ([asked("<end_of_turn>"), answered("Ja")], "its text contains '<end_of_turn>'"),
        ([asked("Yes", "<end_of_turn>"), answered("Ja")], "its text contains '<end_of_turn>'"),
        (
            [{"role": "user", "content": asked("Yes")["content"] * 2}, answered("Ja")],
            "the content of a user has to be a list of one part",
        ),
    ],
)
def test_rows_that_the_template_cannot_show_are_refused(
    messages: list[dict[str, Any]], reason: str, encoder: Encoder
) -> None:
    assert reason in refused(encoder, messages)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([asked("Yes", target_lang_code=None), answered("Ja")], "belong together, and one of them is missing"),
        ([asked("Yes", source_lang_code=["en"]), answered("Ja")], "source_lang_code is not a text"),
        ([asked("Yes"), asked("Ja") | {"role": "assistant"}], "codes of languages in a message of the assistant"),
    ],
)
def test_broken_codes_are_refused(messages: list[dict[str, Any]], reason: str) -> None:
    read = table.read({"messages": messages}, ReadOptions())
    assert isinstance(read, Refused)
    assert reason in read.reason


def test_other_models_refuse_codes_and_can_ignore_them(tiny: Path) -> None:
    encoder = Encoder(tiny, max_length=512)
    reason = refused(encoder, ROWS["one translation"])
    assert "no place for source_lang_code and target_lang_code: use a TranslateGemma" in reason
    columns = {f"messages.content.{name}": None for name in ("source_lang_code", "target_lang_code")}
    read = table.read({"messages": ROWS["one translation"]}, ReadOptions(columns=columns))
    assert not isinstance(read, Refused)
    assert isinstance(read.content, Conversation)
    assert isinstance(encoder.encode(read.content), Encoded)
    assert read.unread_fields == ("messages.content.source_lang_code", "messages.content.target_lang_code")


def test_a_picture_whose_text_is_translated(tiny_vision: Path, tmp_path: Path) -> None:
    folder = variants.translategemma(tiny_vision, tmp_path / "model")
    encoder = Encoder(folder, max_length=512, media=picture_tokens(folder, config_of(folder)))
    part = {"type": "image", "source_lang_code": "cs", "target_lang_code": "en", "image": "x.png"}
    messages = [{"role": "user", "content": [part | {"text": None}]}, answered("Exit")]
    conversation = conversation_of({"messages": messages}, with_pictures=True)
    assert conversation.messages()[0]["content"] == [part]
    row = encoder.encode(conversation.with_images([Picture(b"", (20, 20))]))
    assert isinstance(row, Encoded), row
    text = encoder.text(row.input_ids)
    assert "<start_of_image>" in text
    assert "You translate Czech (cs) into English (en)." in text
    answers = tokens_of_model(folder, row.input_ids)
    assert [index for index, label in enumerate(row.labels) if label != UNTRAINED] == answers[0]
