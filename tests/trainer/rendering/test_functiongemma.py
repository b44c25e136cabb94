"""FunctionGemma's rows: its own template writes them.

The model's calls and answers are learned. The trained tokens are compared with a walk over the token ids.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from gemtune.datasets.refusal import Refused
from gemtune.datasets.trained_turns import TrainOn
from tests.conversations import conversation_of
from tests.trainer import variants
from trainer.rows.encoded import UNTRAINED, Encoded
from trainer.rows.encoder import Encoder

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "a town"},
                "unit": {"type": "string", "description": "of degrees", "enum": ["C", "F"]},
                "days": {"type": "array", "description": "which", "items": {"type": "integer"}},
            },
            "required": ["city"],
        },
    },
}
DEVELOPER = {"role": "developer", "content": "You are a model that can call functions"}
QUESTION = {"role": "user", "content": "The weather?"}
ANSWER = {"role": "assistant", "content": "It is sunny."}


def call(town: str, number: str = "1") -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": town, "days": [1, 2], "unit": "C"})}
    return {"id": number, "type": "function", "function": function}


def calling(*towns: str, **more: Any) -> dict[str, Any]:
    calls = [call(town, str(number)) for number, town in enumerate(towns, 1)]
    return {"role": "assistant", "content": None, "tool_calls": calls} | more


def result(content: Any, number: str = "1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": number, "content": content}


def response(degrees: int) -> dict[str, Any]:
    return {"name": "weather", "response": {"degrees": degrees, "sky": "blue", "wind": {"from": "N"}}}


ASKED = [DEVELOPER, QUESTION, calling("Rome")]
ROWS: dict[str, list[dict[str, Any]]] = {
    "a call at the end": ASKED,
    "no developer turn": ASKED[1:],
    "a result in a text": [*ASKED, result("sunny"), ANSWER],
    "a result that is an object": [*ASKED, {"role": "tool", "content": response(7)}, ANSWER],
    "two calls, two results": [
        DEVELOPER,
        QUESTION,
        calling("Rome", "Oslo"),
        result("sun"),
        result("rain", "2"),
        ANSWER,
    ],
    "two calls, results in a list": [
        DEVELOPER,
        QUESTION,
        calling("Rome", "Oslo"),
        {"role": "tool", "content": [response(7), response(8)]},
        ANSWER,
    ],
    "one call after the other": [
        *ASKED,
        result("sunny"),
        calling("Oslo", content="I ask again."),
        result("rain"),
        ANSWER,
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Yes?"},
    ],
    "a call with weight 0": [*ASKED[:2], calling("Rome", weight=0), result("sunny"), ANSWER],
    "an answer with weight 0": [*ASKED, result("sunny"), ANSWER | {"weight": 0}],
    "no call": [DEVELOPER, QUESTION, ANSWER],
}


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return variants.functiongemma(tiny, tmp_path_factory.mktemp("models") / "functiongemma")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(folder, max_length=2048)


def encoded(encoder: Encoder, messages: list[dict[str, Any]], train_on: TrainOn = "all_assistant_turns") -> Encoded:
    row = encoder.encode(conversation_of({"messages": messages, "tools": [TOOL]}), train_on)
    assert isinstance(row, Encoded), row
    return row


def refused(encoder: Encoder, messages: list[dict[str, Any]]) -> str:
    row = encoder.encode(conversation_of({"messages": messages, "tools": [TOOL]}))
    assert isinstance(row, Refused), row
    return row.reason


def pieces_of_model(folder: Path, ids: list[int]) -> list[tuple[int, int]]:
    """Return the ranges of tokens that the model wrote, found by their ids.

    A range begins after `<start_of_turn>model` and its line break, or after the last result. It ends with the first
    `<start_function_response>` after a call, or with `<end_of_turn>` and its line break.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    token = tokenizer.token_to_id
    start, end, asks, answered = map(
        token, ("<start_of_turn>", "<end_of_turn>", "<start_function_response>", "<end_function_response>")
    )
    model = tokenizer.encode("model\n", add_special_tokens=False).ids
    pieces, begin = [], None
    for index, each in enumerate(ids):
        if each == start:
            begin = index + 1 + len(model) if ids[index + 1 :][: len(model)] == model else None
        elif each == answered and ids[index + 1 : index + 2] not in ([asks], []):
            begin = index + 1
        elif each in (end, asks) and begin is not None:
            pieces.append((begin, index + (2 if each == end else 1)))
            begin = None
    return pieces


def ids_of_transformers(folder: Path, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    from transformers import AutoTokenizer

    native = copy.deepcopy(messages)
    for message in native:
        for each in message.get("tool_calls", ()):
            each["function"]["arguments"] = json.loads(each["function"]["arguments"])
        if message["role"] == "tool" and isinstance(message["content"], str):
            message["name"] = "weather"
    rendered = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        native, tools=[TOOL], return_dict=True, **options
    )
    return list(rendered["input_ids"])


@pytest.mark.parametrize("name", ROWS)
def test_tokens_are_those_of_transformers_and_the_models_are_trained(name: str, folder: Path, encoder: Encoder) -> None:
    messages = ROWS[name]
    row = encoded(encoder, messages)
    assert row.input_ids == ids_of_transformers(folder, messages)
    own = [message for message in messages if message["role"] == "assistant"]
    pieces = pieces_of_model(folder, row.input_ids)
    assert len(pieces) == len(own)
    learned = [piece for piece, message in zip(pieces, own, strict=True) if message.get("weight") != 0]
    expected = {index for begin, end in learned for index in range(begin, end)}
    assert {index for index, label in enumerate(row.labels) if label != UNTRAINED} == expected
    assert row.unread_fields == ()


def test_a_call_ends_where_the_model_waits_for_its_result(encoder: Encoder) -> None:
    row = encoded(encoder, ROWS["a result that is an object"])
    learned = [piece["text"] for piece in encoder.text_pieces(row) if piece["trained"]]
    assert learned == [
        "<start_function_call>call:weather{city:<escape>Rome<escape>,days:[1,2],unit:<escape>C<escape>}"
        "<end_function_call><start_function_response>",
        "It is sunny.<end_of_turn>\n",
    ]
    assert (
        "response:weather{degrees:7,sky:<escape>blue<escape>,wind:{from:<escape>N<escape>}}<end_function_response>"
        in encoder.text(row.input_ids)
    )


@pytest.mark.parametrize("until", [2, 4], ids=["a question", "a result"])
def test_the_generation_prompt_begins_a_turn_and_continues_one_after_results(
    until: int, folder: Path, encoder: Encoder
) -> None:
    messages = ROWS["a result in a text"]
    prompt = encoder.prompt(conversation_of({"messages": messages, "tools": [TOOL]}).first(until))
    assert prompt == ids_of_transformers(folder, messages[:until], add_generation_prompt=True)
    assert encoded(encoder, messages).input_ids[: len(prompt)] == prompt


@pytest.mark.parametrize("token", variants.FUNCTION_TOKENS)
def test_control_tokens_in_texts_are_refused(token: str, encoder: Encoder) -> None:
    reason = refused(encoder, [QUESTION | {"content": f"What is {token}?"}, ANSWER])
    assert f"its text contains {token!r}" in reason
    answer = f"{token}call:weather{{}}"
    assert ("write calls of tools into tool_calls" in refused(encoder, [QUESTION, ANSWER | {"content": answer}])) is (
        token in ("<start_function_call>", "<end_function_call>")
    )
    assert token in refused(encoder, [*ASKED, {"role": "tool", "content": {"sky": token}}, ANSWER])


def test_a_template_that_says_developer_gets_no_system_turn(folder: Path, tmp_path: Path) -> None:
    template = (folder / "chat_template.jinja").read_text()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template.replace("in ('system', 'developer')", "== 'developer'"))
    ours = encoded(Encoder(tmp_path, max_length=2048), [DEVELOPER, QUESTION, ANSWER])
    assert ours.input_ids == encoded(Encoder(folder, max_length=2048), [DEVELOPER, QUESTION, ANSWER]).input_ids
