"""System messages that declare the tools of their row once more, in tags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gemtune.datasets.conversation import Conversation, Text, ToolCall
from gemtune.datasets.formats import table
from gemtune.datasets.formats.table import ReadRow
from gemtune.datasets.refusal import Refused
from gemtune.datasets.rl.read import RlRow, read_labelled, read_pair, read_question
from gemtune.datasets.row_options import ReadOptions
from gemtune.datasets.tagged import python_literal
from gemtune.datasets.tagged.instructions import LEFT_OUT
from gemtune.datasets.tagged.python_literal import NotALiteral

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Says. It.", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time.", "parameters": {}}}
CALL = {"name": "weather", "arguments": {"city": "Rome", "hour": None}}
SCHEMA = {
    "title": "FunctionCall",
    "type": "object",
    "properties": {"name": {"title": "Name"}, "arguments": {"title": "Arguments"}},
}
# Wordings as Hermes's and Qwen's chat templates and programs that write such rows have them, each with what is left.
HERMES = (
    "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML tags. "
    "Don't make assumptions about what values to plug into functions. Here are the available tools: <tools> {tools} "
    "</tools> Use the following pydantic model json schema for each tool call you will make: {schema} For each "
    "function call return a json object with function name and arguments within <tool_call></tool_call> XML tags as "
    'follows:\n<tool_call>\n{{"arguments": <args-dict>, "name": <function-name>}}\n</tool_call>'
)
QWEN = (
    "You are Bob.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n"
    "</tools>\n\nFor each function call, return a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{{"name": <function-name>}}\n</tool_call>\n\nToday is Monday.'
)
AGENT = (
    "You are provided with function signatures within <tools> </tools> XML tags. Be brief. You get results within "
    "<tool_response> </tool_response> XML tags. Here are the available tools:\n<tools>\n{tools}\n</tools>\nFor each "
    "call return a JSON object, with the following pydantic model json schema for each:\n{schema}\n1. Each is enclosed "
    "within a <tool_call>…</tool_call> block.\n2. Never guess.\nExample:\n<tool_call>\n{{'name': <name>}}\n</tool_call>"
)
WORDINGS = [
    (
        HERMES,
        json.dumps,
        "You are a function calling AI model. Don't make assumptions about what values to plug into functions.",
    ),
    (QWEN, lambda value: "\n".join(map(json.dumps, value)), "You are Bob.\n\nToday is Monday."),
    (AGENT, str, "Be brief.\n2. Never guess."),
    ("<tools>{tools}</tools>", json.dumps, ""),
]


def system(tools: Sequence[Any] = (WEATHER, CLOCK), wording: str = QWEN, write: Any = json.dumps) -> str:
    return wording.format(tools=write(list(tools)), schema=write(SCHEMA) if write is str else json.dumps(SCHEMA))


def row(text: str, tools: Any = (WEATHER, CLOCK), answer: str | None = None) -> dict[str, Any]:
    turns = [
        ("system", text),
        ("human", "The weather?"),
        ("gpt", answer or f"<tool_call>{json.dumps(CALL)}</tool_call>"),
    ]
    turns += [] if answer else [("tool", "<tool_response>sunny</tool_response>"), ("gpt", "It is sunny.")]
    conversations = [{"from": role, "value": value} for role, value in turns]
    return {"conversations": conversations, "tools": json.dumps(tools)}


def read(example: dict[str, Any]) -> tuple[ReadRow, Conversation]:
    read_row = table.read(example)
    assert isinstance(read_row, ReadRow), read_row
    assert isinstance(read_row.content, Conversation)
    return read_row, read_row.content


@pytest.mark.parametrize(("wording", "write", "left"), WORDINGS, ids=["Hermes", "Qwen", "agent", "alone"])
@pytest.mark.parametrize("answer", [None, "I cannot."])
def test_tools_declared_twice_are_declared_by_the_chat_template(
    wording: str, write: Any, left: str, answer: str | None
) -> None:
    read_row, conversation = read(row(system(wording=wording, write=write), answer=answer))
    first = conversation.turns[0]
    assert (first.content if first.role == "system" else "") == left
    assert [tool["function"]["name"] for tool in conversation.tools] == ["weather", "clock"]
    assert any(turn.calls for turn in conversation.turns) is (answer is None)
    assert read_row.unread_fields == (LEFT_OUT,)


def test_the_same_tools_may_be_written_otherwise() -> None:
    city = {"required": ["city"], "properties": {"city": {"type": "string", "description": ""}}, "type": "object"}
    other = {"name": "weather", "description": " Says. It.\n", "parameters": city}
    _, conversation = read(row(system([CLOCK, other])))
    assert conversation.turns[0].content == "You are Bob.\n\nToday is Monday."


@pytest.mark.parametrize(
    ("declared", "difference"),
    [
        ([WEATHER], "'clock' is only in the tools"),
        ([WEATHER, CLOCK, {"name": "news", "description": "", "parameters": {}}], "'news' is only in the tags"),
        ([WEATHER, {"name": "clock", "description": "A clock.", "parameters": {}}], "'clock' has another description"),
        (
            [WEATHER, {"name": "clock", "description": "The time.", "parameters": CITY}],
            "'clock' has another parameters",
        ),
    ],
)
def test_two_declarations_that_differ_refuse_their_row(declared: list[Any], difference: str) -> None:
    refused = table.read(row(system(declared)))
    assert isinstance(refused, Refused)
    assert difference in refused.reason
    assert "add {tools: null} to dataset_columns" in refused.reason


def test_tags_that_hold_no_definitions_refuse_their_row() -> None:
    refused = table.read(row("Call tools. <tools>weather(city)</tools> Use <tool_call>."))
    assert isinstance(refused, Refused)
    assert "in the <tools> tags of the system message is neither JSON nor" in refused.reason


def test_rows_of_rl_follow_the_same_rule() -> None:
    prompt = [{"role": "system", "content": system()}, {"role": "user", "content": "The weather?"}]
    bare: dict[str, Any] = {"prompt": prompt, "tools": [WEATHER, CLOCK]}
    call = f"<tool_call>{CALL}</tool_call>"
    pair = read_pair(
        bare | {"chosen": call, "rejected": [*prompt, {"role": "assistant", "content": "No."}]}, ReadOptions()
    )
    good = read_labelled(bare | {"completion": call, "label": True}, ReadOptions())
    question = read_question(bare | {"answer": "sunny"}, ReadOptions(), ["answer"])
    for each in (pair, good, question):
        assert isinstance(each, RlRow), each
        assert each.content.prompt.turns[0].content == "You are Bob.\n\nToday is Monday."
        assert each.unread_fields == (LEFT_OUT,)
    assert isinstance(pair, RlRow)
    assert pair.content.chosen[0].calls == (ToolCall("weather", {"city": "Rome"}),)
    for answer in ({"answer": "sunny"}, {"completion": "No.", "label": True}):
        different = bare | {"tools": [WEATHER]} | answer
        refused = (
            read_question(different, ReadOptions(), ["answer"])
            if "answer" in answer
            else read_labelled(different, ReadOptions())
        )
        assert isinstance(refused, Refused)
        assert "'clock' is only in the tags" in refused.reason


def test_parts_of_a_system_message_are_read_one_by_one() -> None:
    parts = [{"type": "text", "text": "Be kind."}, {"type": "text", "text": system(wording="<tools>{tools}</tools>")}]
    turns = [{"role": "system", "content": parts}, {"role": "user", "content": "Hi"}]
    turns.append({"role": "assistant", "content": "Hello."})
    _, conversation = read({"messages": turns, "tools": [WEATHER, CLOCK]})
    assert conversation.turns[0].content == (Text("Be kind."),)


@pytest.mark.parametrize(
    "text",
    [
        "<tools>" * 100_000,
        "<tools>{</tools>. " * 40_000,
        " " * 700_000 + "<tools>",
        f"<tools>{' ' * 700_000}</tools>:{' ' * 200_000}",
        ":\n<" * 200_000 + "<tools>",
    ],
)
def test_long_system_messages_are_read_in_linear_time(text: str) -> None:
    """Quadratic time would be about an hour (calculated)."""
    assert isinstance(table.read(row(text)), Refused)
    assert isinstance(table.read(row(f"{text} {system()}")), ReadRow | Refused)


@pytest.mark.parametrize(
    "text",
    [
        "(1, 2)",
        "{1: 2}",
        "f()",
        "1e999",
        "b'a'",
        "{'a': 1, 'a': 2}",
        "'\\ud800'",
        "[" * 100 + "]" * 100,
        "-" * 9_000,
        "x",
    ],
)
def test_only_values_of_json_are_read_as_python_prints_them(text: str) -> None:
    with pytest.raises(NotALiteral):
        python_literal.read_literal(text)
    value = {"a": [True, None, -1.5, "it's \n"], "b": {}}
    assert python_literal.read_literal(str(value)) == value
