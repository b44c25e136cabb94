"""Calls in tags of a text: calls where the row has tools, else text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemtune.datasets.conversation import Conversation, ToolCall, Turn
from gemtune.datasets.formats import table
from gemtune.datasets.formats.table import ReadRow
from gemtune.datasets.refusal import Refused
from gemtune.datasets.rl.read import RlRow, read_labelled, read_pair, read_question
from gemtune.datasets.row_options import ReadOptions

TOOL = {"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}}
ROME, OSLO = ({"name": "weather", "arguments": {"city": city}} for city in ("Rome", "Oslo"))
CALLS = (ToolCall("weather", {"city": "Rome"}), ToolCall("weather", {"city": "Oslo"}))


def tags(*calls: Any, before: str = "") -> str:
    return before + "\n".join(f"<tool_call>\n{json.dumps(each)}\n</tool_call>" for each in calls)


def results(*texts: str) -> str:
    return "\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in texts)


def row(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns]} | more


def read(example: dict[str, Any], **options: Any) -> ReadRow:
    read_row = table.read(example, ReadOptions(**options))
    assert isinstance(read_row, ReadRow), read_row
    return read_row


def turns_of(example: dict[str, Any], **options: Any) -> tuple[Turn, ...]:
    content = read(example, **options).content
    assert isinstance(content, Conversation)
    return content.turns


ASKED = ("human", "The weather?")


@pytest.mark.parametrize("role", ["tool", "human"])
def test_calls_and_results_in_tags_are_those_of_the_rows_tools(role: str) -> None:
    example = row(
        ASKED,
        ("gpt", tags(ROME, OSLO, before="<think>\nTwo.\n</think>\n")),
        (role, results("sunny", "cold")),
        ("gpt", "Both."),
        tools=json.dumps([TOOL]),
    )
    question, call, *tool_turns, answer = turns_of(example)
    assert (call.content, call.calls) == ("<think>\nTwo.\n</think>", CALLS)
    assert [(turn.role, turn.content, turn.tool_name) for turn in tool_turns] == [
        ("tool", "sunny", "weather"),
        ("tool", "cold", "weather"),
    ]
    assert (question.role, answer.content) == ("user", "Both.")


def test_tags_without_tools_stay_text_and_are_counted() -> None:
    example = row(
        ("system", "Call tools in <tool_call> tags: <tools>[]</tools>"),
        ASKED,
        ("gpt", tags(ROME)),
        ("tool", results("sunny")),
        ("tool", results("cold")),
        ("gpt", "Both."),
    )
    turns = turns_of(example)
    assert [turn.content for turn in turns[2:]] == [tags(ROME), results("sunny", "cold"), "Both."]
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert read(example).unread_fields == ("<tool_call>",)
    ignored = example | {"tools": [TOOL]}
    assert turns_of(ignored, columns={"tools": None}) == turns


@pytest.mark.parametrize(
    ("turns", "tools", "reason"),
    [
        ([("gpt", "<tool_call>{'name': open('f')}</tool_call>")], [TOOL], "is a text that is not JSON"),
        ([("gpt", "<tool_call>{'name': 'f', 'name': 'g'}</tool_call>")], [TOOL], "is a text that is not JSON"),
        ([("gpt", "<tool_call>\n<function=f>\n</function>\n</tool_call>")], [TOOL], "is a text that is not JSON"),
        ([("gpt", '<tool_call>{"arguments": {}}</tool_call>')], [TOOL], "a function has no name"),
        ([("gpt", '<tool_call>{"name": "f", "mood": 1}</tool_call>')], [TOOL], "the field mood is unknown"),
        ([("gpt", '<tool_call>{"name": "f"}')], [TOOL], "turn 2 has <tool_call> tags that are not closed"),
        ([("gpt", tags(ROME) + "So?" + tags(OSLO))], [TOOL], "or text between or behind them"),
        (
            [("gpt", tags(ROME)), ("human", results("sunny") + "And Oslo?")],
            [TOOL],
            "turn 3 has text beside the results",
        ),
        ([("gpt", tags(ROME)), ("tool", "sunny"), ("gpt", "Yes.")], None, "add the definitions of tools"),
        ([("gpt", tags(ROME)), ("function_call", json.dumps(ROME))], None, "and no result follows"),
    ],
)
def test_tags_that_cannot_be_read_refuse_their_row(turns: list[tuple[str, str]], tools: Any, reason: str) -> None:
    refused = table.read(row(ASKED, *turns, tools=tools))
    assert isinstance(refused, Refused)
    assert reason in refused.reason


def test_a_system_message_about_tags_contradicts_tools_of_the_row() -> None:
    refused = table.read(row(("system", "Use <tool_call>"), ASKED, ("gpt", tags(ROME)), tools=[TOOL]))
    assert isinstance(refused, Refused)
    assert "add {tools: null} to dataset_columns" in refused.reason


def test_a_prompt_of_rl_about_tags_contradicts_tools_of_the_row_too() -> None:
    prompt = [{"role": "system", "content": "Use <tool_call>"}, {"role": "user", "content": "The weather?"}]
    example: dict[str, Any] = {"prompt": prompt, "chosen": tags(ROME), "rejected": "I cannot."}
    assert isinstance(read_pair(example, ReadOptions()), RlRow)
    refused = read_pair(example | {"tools": [TOOL]}, ReadOptions())
    assert isinstance(refused, Refused)
    assert "the system message tells how to write calls" in refused.reason


@pytest.mark.parametrize("part", [{"type": "image", "path": "sky.png"}, {"type": "audio", "path": "rain.wav"}])
def test_a_picture_or_audio_beside_results_in_tags_is_not_dropped(part: dict[str, str]) -> None:
    example = row(ASKED, ("gpt", tags(ROME)), ("human", ""), ("gpt", "It is sunny."), tools=[TOOL])
    example["conversations"][2]["value"] = [part, {"type": "text", "text": results("sunny")}]
    refused = table.read(example, ReadOptions(with_pictures=True, with_audio=True))
    assert isinstance(refused, Refused)
    assert "turn 3 has a picture or audio beside the results in <tool_response> tags" in refused.reason


def test_long_blanks_around_tags_are_read_in_linear_time() -> None:
    """Patterns took time that grows with the square of the blanks.

    That is about an hour for these texts (calculated).
    """
    blanks = " " * 900_000
    refused = table.read(row(ASKED, ("gpt", f"So{blanks}{tags(ROME)} tail"), tools=[TOOL]))
    assert isinstance(refused, Refused)
    assert "text between or behind them" in refused.reason
    turns = turns_of(row(ASKED, ("gpt", tags(ROME)), ("tool", results(f"a{blanks}b")), ("gpt", "Yes."), tools=[TOOL]))
    assert turns[2].content == f"a{blanks}b"


def test_what_users_say_about_tags_is_text() -> None:
    example = row(("human", "What is <tool_call> and <tool_response>?"), ("gpt", "A tag."), tools=[TOOL])
    assert turns_of(example)[0].content == "What is <tool_call> and <tool_response>?"
    assert read(example).unread_fields == ()


def test_rows_of_rl_read_tags_alike() -> None:
    answers: dict[str, Any] = {"chosen": tags(ROME), "rejected": "I cannot."}
    pair = read_pair({"prompt": "The weather?", "tools": [TOOL]} | answers, ReadOptions())
    assert isinstance(pair, RlRow), pair
    assert pair.content.chosen == (Turn("assistant", "", calls=CALLS[:1]),)
    plain = read_pair({"prompt": "The weather?"} | answers, ReadOptions())
    assert isinstance(plain, RlRow)
    assert (plain.content.chosen, plain.unread_fields) == ((Turn("assistant", tags(ROME)),), ("<tool_call>",))
    turns = [ASKED, ("gpt", tags(ROME)), ("human", results("sunny")), ("gpt", "It is sunny.")]
    good = read_labelled(row(*turns, label=True, tools=[TOOL]), ReadOptions())
    assert isinstance(good, RlRow), good
    assert [turn.role for turn in good.content.completion] == ["assistant", "tool", "assistant"]
    prompt = read_question(row(*turns[:3], answer="sunny", tools=[TOOL]), ReadOptions(), ["answer"])
    assert isinstance(prompt, RlRow), prompt
    assert [turn.role for turn in prompt.content.prompt.turns] == ["user", "assistant", "tool"]
