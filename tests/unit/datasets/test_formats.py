"""Formats of rows: the same conversation in each, and nothing of it lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemtune.datasets.conversation import Audio, Conversation, Image, PlainText, Text, ToolCall, Turn
from gemtune.datasets.files import wrapped_rows
from gemtune.datasets.formats import table
from gemtune.datasets.reading.advice import WRAPPERS
from gemtune.datasets.reading.fields import HARMLESS
from gemtune.datasets.refusal import Refused
from gemtune.datasets.row_options import FormatName, ReadOptions

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}
CHAT = Conversation((Turn("user", "Hi"), Turn("assistant", "Yes?")))
WITH_SYSTEM = Conversation((Turn("system", "Be brief."), *CHAT.turns))
WEATHER = {"name": "weather", "description": "Says the weather.", "parameters": {"type": "object", "properties": {}}}
ARGUMENTS = {"city": "Rome", "days": 2}
WITH_TOOLS = Conversation(
    (
        Turn("user", "Hi"),
        Turn("assistant", calls=(ToolCall("weather", ARGUMENTS, "a1"),)),
        Turn("tool", "sunny", call_id="a1", tool_name="weather"),
        Turn("assistant", "Sunny."),
    ),
    ({"type": "function", "function": WEATHER},),
)
CALL = {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}}
OPENAI_TOOLS: dict[str, Any] = {
    "messages": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ],
    "tools": [{"type": "function", "function": WEATHER | {"strict": True}}],
}


def glaive(
    *,
    functions: str = json.dumps(WEATHER, indent=2),
    call: str = f"""{{"name": "weather", "arguments": '{json.dumps(ARGUMENTS)}'}}""",
) -> dict[str, Any]:
    """Return a row of Glaive's, whose text is about WITH_TOOLS."""
    return {
        "system": f"SYSTEM: Be brief with access to the following functions. Use them if required -\n{functions}\n",
        "chat": f"USER: Hi\n\n\nASSISTANT: <functioncall> {call} <|endoftext|>\n\n\nFUNCTION RESPONSE: sunny\n\n\n"
        "ASSISTANT: Sunny. <|endoftext|>\n\n\n",
    }


def chatgpt(*messages: dict[str, Any]) -> dict[str, Any]:
    """Return a conversation as ChatGPT exports it, with a second first answer."""
    nodes: dict[str, Any] = {"root": {"id": "root", "message": None, "parent": None, "children": ["0"]}}
    for number, message in enumerate(messages):
        content = {"content_type": "text", "parts": [message["text"]]} | message.get("content", {})
        written = {"author": {"role": message["role"], "metadata": {}}, "content": content, "status": "finished"}
        details = {name: value for name, value in message.items() if name not in ("role", "text", "content")}
        parent = str(number - 1) if number else "root"
        nodes[str(number)] = {"id": str(number), "message": written | details, "parent": parent}
    branch = {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["No."]}}
    nodes["other"] = {"id": "other", "message": branch, "parent": "0"}
    return {"title": "Hi", "mapping": nodes, "current_node": str(len(messages) - 1), "safe_urls": []}


def claude(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a conversation as Claude exports it."""
    question = {"sender": "human", "text": "Hi", "attachments": [], "files": [], "uuid": "1"}
    return {"name": "Hi", "chat_messages": [question, {"sender": "assistant", "created_at": "2026"} | answer]}


# Rows by the format that reads them, and what they say.
ROWS: list[tuple[FormatName, dict[str, Any], Conversation]] = [
    ("openai", {"messages": [USER, ASSISTANT]}, CHAT),
    ("openai", {"messages": json.dumps([USER, ASSISTANT])}, CHAT),
    ("openai", {"conversations": [USER, ASSISTANT]}, CHAT),
    ("openai", {"messages": [{"role": "developer", "content": "Be brief."}, USER, ASSISTANT]}, WITH_SYSTEM),
    ("openai", {"messages": [USER | {"tool_calls": None}, ASSISTANT | {"weight": None}], "tools": None}, CHAT),
    ("openai", OPENAI_TOOLS, WITH_TOOLS),
    ("openai", OPENAI_TOOLS | {"tools": json.dumps([WEATHER])}, WITH_TOOLS),
    ("anthropic", {"system": "Be brief.", "messages": [USER, ASSISTANT]}, WITH_SYSTEM),
    (
        "anthropic",
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "a1", "name": "weather", "input": ARGUMENTS}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a1", "content": "sunny"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Sunny."}]},
            ],
            "tools": [{"name": "weather", "description": "Says the weather.", "input_schema": WEATHER["parameters"]}],
        },
        WITH_TOOLS.with_turns([*WITH_TOOLS.turns[:3], Turn("assistant", (Text("Sunny."),))]),
    ),
    (
        "vertex",
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Yes?"}]}]},
        CHAT,
    ),
    (
        "vertex",
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "Be "}, {"text": "brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Hi"}]},
                {"role": "model", "parts": [{"text": "Yes?"}]},
            ],
        },
        WITH_SYSTEM,
    ),
    (
        "vertex",
        {
            "contents": [
                {"role": "user", "parts": [{"text": "Hi"}]},
                {"role": "model", "parts": [{"functionCall": {"id": "a1", "name": "weather", "args": ARGUMENTS}}]},
                {"role": "user", "parts": [{"functionResponse": {"id": "a1", "name": "weather", "response": "sunny"}}]},
                {"role": "model", "parts": [{"text": "Sunny."}]},
            ],
            "tools": [{"functionDeclarations": [WEATHER]}],
        },
        WITH_TOOLS,
    ),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]}, CHAT),
    (
        "sharegpt",
        {"system": "Be brief.", "conversations": [{"from": "user", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]},
        WITH_SYSTEM,
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": json.dumps({"id": "a1", "name": "weather", "arguments": ARGUMENTS})},
                {"from": "observation", "value": "sunny"},
                {"from": "gpt", "value": "Sunny."},
            ],
            "tools": json.dumps([WEATHER]),
        },
        WITH_TOOLS.with_turns([*WITH_TOOLS.turns[:2], Turn("tool", "sunny", tool_name="weather"), WITH_TOOLS.turns[3]]),
    ),
    ("prompt_completion", {"prompt": "Hi", "completion": "Yes?"}, CHAT),
    ("prompt_completion", {"prompt": [USER], "response": [ASSISTANT]}, CHAT),
    ("prompt_completion", {"system": "Be brief.", "prompt": "Hi", "response": "Yes?"}, WITH_SYSTEM),
    ("question_answer", {"question": "Hi", "answer": "Yes?"}, CHAT),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Yes?", "system": "Be brief."}, WITH_SYSTEM),
    ("alpaca", {"instruction": "Hi", "context": "", "response": "Yes?"}, CHAT),
    ("prompt_completion", {"prompt": "\n\nHuman: Hi\n\nAssistant:", "completion": "Yes?"}, CHAT),
    (
        "prompt_completion",
        {"prompt": "Human: Hi\n\nAssistant: Yes?\n\nHuman: Ho\n\nAssistant: ", "completion": "No."},
        CHAT.with_turns([*CHAT.turns, Turn("user", "Ho"), Turn("assistant", "No.")]),
    ),
    (
        "prompt_completion",
        {"prompt": "Human: Hi", "completion": "Yes?"},
        CHAT.with_turns([Turn("user", "Human: Hi"), CHAT.turns[1]]),
    ),
    ("question_answer", {"query": "Hi", "response": "Yes?"}, CHAT),
    ("question_answer", {"system_prompt": "Be brief.", "question": "Hi", "response": "Yes?"}, WITH_SYSTEM),
    ("alpaca", {"input": "Hi", "output": "Yes?"}, CHAT),
    ("openai", {"messages": [USER, ASSISTANT], "prompt": "Hi"}, CHAT),
    ("openai", {"messages": [USER, ASSISTANT], "problem": "Hi", "solution": "Yes?"}, CHAT),
    ("openai", {"conversation": [USER, ASSISTANT]}, CHAT),
    ("openai", {"messages": [json.dumps(USER), json.dumps(ASSISTANT)]}, CHAT),
    ("openai", {"conversations": [json.dumps(USER), json.dumps(ASSISTANT)]}, CHAT),
    ("sharegpt", {"conversation": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]}, CHAT),
    ("exchanges", {"conversation": [{"input": "Hi", "output": "Yes?"}]}, CHAT),
    ("exchanges", {"conversation": json.dumps([{"system": "Be brief.", "human": "Hi", "bot": "Yes?"}])}, WITH_SYSTEM),
    ("exchanges", {"system": "Be brief.", "texts": [{"user": "Hi", "assistant": "Yes?"}]}, WITH_SYSTEM),
    ("exchanges", {"conversations": ["Hi", "Yes?"]}, CHAT),
    ("exchanges", {"conversations": json.dumps(["Hi", "Yes?"])}, CHAT),
    (
        "xlam",
        {"query": "Hi", "answers": json.dumps([CALL]), "tools": json.dumps([WEATHER])},
        WITH_TOOLS.first(2),
    ),
    (
        "xlam",
        {"query": "Hi", "answers": [{"id": "a1", "name": "weather", "arguments": ARGUMENTS}], "tools": [WEATHER]},
        WITH_TOOLS.first(2),
    ),
    (
        "glaive",
        glaive(),
        WITH_TOOLS.with_turns(
            [
                WITH_SYSTEM.turns[0],
                WITH_TOOLS.turns[0],
                Turn("assistant", calls=(ToolCall("weather", ARGUMENTS),)),
                Turn("tool", "sunny", tool_name="weather"),
                Turn("assistant", "Sunny."),
            ]
        ),
    ),
    ("glaive", {"system": "SYSTEM: Be brief.", "chat": "USER: Hi\n\n\nASSISTANT: Yes? <|endoftext|>\n"}, WITH_SYSTEM),
    ("glaive", {"chat": "USER: Hi\nASSISTANT: Yes?"}, CHAT),
    ("chatgpt", chatgpt({"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Yes?"}), CHAT),
    (
        "chatgpt",
        chatgpt(
            *({"role": "system", "text": ""}, {"role": "user", "text": "Hi"}),
            {"role": "assistant", "text": "Yes?", "weight": 0.0},
        )
        | {"id": "c", "gizmo_id": None, "is_archived": False},
        CHAT.with_turns([CHAT.turns[0], Turn("assistant", "Yes?", trained=False)]),
    ),
    ("claude", claude({"text": "Yes?"}), CHAT),
    ("claude", claude({"text": "", "content": [{"type": "text", "text": "Yes?", "citations": []}]}), CHAT),
    (
        "claude",
        claude({"text": "x", "content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Yes?"}]}),
        CHAT.with_turns([CHAT.turns[0], Turn("assistant", "Yes?", "Hm")]),
    ),
    ("prompt_completion", {"system": "Be brief.", "user": "Hi", "assistant": "Yes?"}, WITH_SYSTEM),
    ("prompt_completion", {"Prompt": "Hi", " Completion ": "Yes?"}, CHAT),
    ("prompt_completion", {"prompt": [USER], "completion": ASSISTANT}, CHAT),
    ("question_answer", {"QUESTION": "Hi", "Answer": "Yes?", "ID": 7}, CHAT),
    ("question_answer", {"question": "Hi", "answers": {"text": ["Yes?"], "answer_start": [0]}, "context": ""}, CHAT),
    (
        "question_answer",
        {"context": "He is Otto.", "question": "Who?", "answers": json.dumps({"text": ["Otto"], "answer_start": [6]})},
        CHAT.with_turns([Turn("user", "He is Otto.\n\nWho?"), Turn("assistant", "Otto")]),
    ),
    (
        "question_answer",
        {"context": "He is Otto.", "question": "Who?", "answer": "Otto"},
        CHAT.with_turns([Turn("user", "He is Otto.\n\nWho?"), Turn("assistant", "Otto")]),
    ),
    (
        "alpaca",
        {"instruction": "Translate", "input": "yes", "output": "oui", "history": [["Hi", "Yes?"]]},
        CHAT.with_turns([*CHAT.turns, Turn("user", "Translate\n\nyes"), Turn("assistant", "oui")]),
    ),
]


@pytest.mark.parametrize(("name", "row", "expected"), ROWS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(ROWS)])
def test_each_format_is_recognized_and_read(name: FormatName, row: Mapping[str, Any], expected: Conversation) -> None:
    read = table.read(row)
    assert not isinstance(read, Refused), read.reason
    assert (read.format, read.content) == (name, expected)
    stated = table.read(row, ReadOptions(format=name))
    assert not isinstance(stated, Refused)
    assert stated.content == expected


def test_a_plain_text_is_a_text_to_continue() -> None:
    read = table.read({"text": "Once upon a time", "source": "tales"})
    assert not isinstance(read, Refused)
    assert (read.content, read.format, read.unread_fields) == (PlainText("Once upon a time"), "text", ("source",))


def test_turns_in_a_plain_text_are_counted() -> None:
    for text, turn in (
        ("<|im_start|>user\nHi<|im_end|>", "<|im_start|>"),
        ("### Human: Hi### Assistant: Ho", "### Human:"),
    ):
        read = table.read({"text": text})
        assert not isinstance(read, Refused)
        assert (read.content, read.unread_fields) == (PlainText(text), (turn,))


def test_the_type_of_dataset_format_has_every_format_of_the_table() -> None:
    assert {each.name for each in table.FORMATS} == {*get_args(FormatName)} == {name for name, *_ in ROWS} | {"text"}


def reason(row: Mapping[str, Any], options: ReadOptions | None = None) -> str:
    refused = table.read(row, options)
    assert isinstance(refused, Refused)
    return refused.reason


def messages(*changed: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": list(changed)}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"prompt": "Hi", "completion": "Yes?", "messages": [USER, ASSISTANT]},
        "openai and prompt_completion: set dataset_f",
    ),
    (
        {"instruction": "Hi", "output": "Yes?", "text": "both"},
        "the formats alpaca and text: set dataset_format to one of them, and in dataset_columns the fields of the "
        "others to null: {text: null} for alpaca, {instruction: null, output: null} for text",
    ),
    ({"query": "Hi", "answers": "[]", "tools": [WEATHER]}, "answers has no call: write the answer as text"),
    ({"query": "Hi", "answers": ["Yes?", "Yes"]}, "its answers are a list of texts: write one of them into answer"),
    ({"prompt": "Hi", "completion": "0", "weight": "0"}, "the field weight is unknown"),
    ({"conversation": [{"input": "Hi", "output": "Yes?", "score": 1, "wieght": 0}]}, "exchange 1: the field wieght is"),
    ({"conversation": [{"input": "Hi", "output": "Yes?"}, {"input": "Hm"}]}, "exchange 2: it needs input or user"),
    ({"query": "a", "question": "b", "answer": "c"}, "both question and query are given: keep one, or ignore the"),
    ({"messages": [USER, ASSISTANT], "problem": "Ho"}, "the field problem is unknown"),
    ({"messages": [USER]}, "no message of the assistant, which is what is learned; prompts without answers are for"),
    ({"sample": "USER: Hi\nASSISTANT: Yes?"}, "its sample is a transcript of USER: and ASSISTANT:"),
    ({"row_idx": 0, "row": {"prompt": "Hi"}}, "the row is inside of its field row"),
    (
        {"data": [{"prompt": "Hi", "completion": "Yes?"}]},
        "write each of them on a line of its own, as `jq -c '.data[]'`",
    ),
    ({"features": [], "rows": [{"row_idx": 0, "row": {}}]}, "as `jq -c '.rows[].row'` does"),
    ({"prompt": {"text": "Hi", "replies": []}, "message_tree_id": "1"}, "a tree of messages: write a row of messages"),
    ({"message_id": "1", "parent_id": "0", "role": "prompter", "text": "Hi"}, "such a row is one message: write all"),
    (
        {"question": "Hi", "context": "He", "answers": {"text": [], "answer_start": []}},
        "answers: the question has no answer in its context: write what to say into answer, or leave the row out",
    ),
    (
        {"question": [USER, ASSISTANT, USER], "answer": "Yes?", "context": "He is Otto."},
        "context stands beside messages in question",
    ),
    ({"question": "Hi", "answers": {"text": ["Yes?"], "wieght": [0]}}, "the field wieght is unknown"),
    ({"prompt": "Hi", "response_0": "a", "response_1": "b"}, "several answers to one prompt: write a better one into"),
    (
        {"prompt": "Hi", "response_0": "a", "response_1": "b", "better_response_id": 1},
        "it says which of two answers is better: use method RL with DPO",
    ),
    (
        chatgpt({"role": "user", "text": "Hi", "content": {"content_type": "multimodal_text"}}),
        "message 1: its content is multimodal_text, which is not only text: remove such conversations",
    ),
    (
        chatgpt({"role": "user", "text": "Hi", "metadata": {"attachments": [{"name": "a.pdf"}]}}),
        "message 1: it has attachments, whose content is not in its text",
    ),
    (
        chatgpt({"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Yes?"}) | {"system": "Be brief."},
        "the field system is unknown",
    ),
    (claude({"text": "Yes?", "weight": 0}), "message 2: the field weight is unknown"),
    (chatgpt({"role": "tool", "text": "Hi"}), "message 1: it is of one of ChatGPT's own tools"),
    (chatgpt({"role": "assistant", "text": "Hi", "recipient": "python"}), "message 1: it is of one of ChatGPT's own"),
    ({"mapping": {}, "current_node": "a"}, "mapping has no node of the name that"),
    ({"mapping": {"a": {"parent": "a"}, "b": {}}, "current_node": "a"}, "the nodes of mapping form a circle"),
    ({"mapping": {"a": {"parent": "c"}, "b": {}}, "current_node": "a"}, "mapping has no node of the name that"),
    (claude({"content": "Yes?"}), "message 2: its content is not a list of parts"),
    (claude({"text": "Yes?", "content": "No."}), "message 2: its content is not a list of parts"),
    (claude({"text": "Yes?", "attachments": [{"file_name": "a"}]}), "message 2: it has attachments, whose content is"),
    (
        claude({"text": "", "content": [{"type": "tool_use", "text": "a"}]}),
        "message 2: a part is tool_use, which",
    ),
    (claude({}), "message 2: it has neither text nor content"),
    (
        {"prompt": ["a", "b"], "completion": ["c", "d"]},
        "prompt has several texts: write a row for each, as pandas",
    ),
    ({"prompt": {"0": "a"}, "completion": {"0": "c"}}, "prompt has several texts"),
    ({"1": {"prompt": "a"}, "2": {"prompt": "b"}}, "it has rows by their numbers: write each of them on a line"),
    ({"log": [USER, ASSISTANT]}, "set dataset_columns, such as {messages: log}"),
    ({"log": [{"from": "human", "value": "Hi"}]}, "set dataset_columns, such as {conversations: log}"),
    ({"from": "human", "value": "Hi"}, "such a row is one message: write all messages of a conversation into one row"),
    ({"input_ids": [1], "labels": [1]}, "its texts are tokens of a tokenizer already"),
    ({"custom_id": "1", "body": {"messages": [USER]}}, "it is a request or an answer of an API: write the messages"),
    ({"id": "1", "choices": [{"index": 0, "message": ASSISTANT}]}, "it is a request or an answer of an API"),
    ({"id": 1, "annotations": [], "data": {"a": "b"}}, "it is an export of Label Studio with all details"),
    ({"input": [USER], "output": "Yes?"}, "for messages, set dataset_columns to {prompt: input, completion: output}"),
    ({"Prompt": "Hi", "prompt": "Ho", "Completion": "Yes?"}, "the field Prompt is unknown"),
    ({"Prompt": "Hi", "Completion": "Yes?", "Label": "x"}, "to ignore it, add {label: null} to dataset_columns"),
    (glaive(call='{"name": " ", "arguments": {}}'), "a function has no name"),
    (glaive(call="{'name': 'weather'}"), "a call behind <functioncall> is not {name, arguments}"),
    (
        glaive(call='{"name": "weather", "arguments": \'{"city"\'}'),
        "a call behind <functioncall> cannot be read: this is",
    ),
    (
        glaive(functions='{"name": "weather"'),
        "the functions in the system message cannot be read: this is not JSON (line 1, column 20); correct them, or "
        "add {tools: null} to dataset_columns to train them and their calls as text",
    ),
    (glaive() | {"tools": [WEATHER]}, "the system message and a column tools both have functions: keep one"),
    ({"chat": "Hm.\nUSER: Hi\nASSISTANT: Yes?"}, "chat does not begin with USER:"),
    (
        {"prompt": "Hi", "answers": [{"answer": "a", "rank": 1}]},
        "several answers to one prompt: write a better one into",
    ),
    ({"instruction": "Hi", "output_1": "a", "output_2": "b"}, "write a better one into chosen"),
    ({"question": "Hi", "Answer A": "a", "Answer B": "b"}, "write a better one into chosen"),
    ({"translation": {"de": "Ja", "en": "Yes"}}, "write the text to translate into prompt"),
    ({"problem": "Hi", "solution": "Yes?"}, "such as {prompt: problem, completion: solution}, with null for each"),
    (
        {"inputs": "Hi", "targets": "Yes?"},
        "such as {prompt: inputs, completion: targets}, with null for each field to ignore",
    ),
    ({"items": [{"from": "human", "value": "Hi"}]}, "such as {conversations: items}"),
    ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "this is a row for RL"),
    ({"text": "Great film", "label": 1}, "set dataset_columns to {prompt: text, completion: label}"),
    ({"messages": []}, "messages is an empty list"),
    (messages(USER, {"role": "assistant", "content": None}), "turn 2: a message needs role and content"),
    (messages(USER, {"role": "assistant", "refusal": "No."}), "turn 2: it has a refusal and no content: write the"),
    (
        {
            "contents": [{"parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Yes?"}]}],
            "tools": [{"googleSearch": {}}],
        },
        "tools: a tool googleSearch; only functionDeclarations can be given to a model here: ignore it in "
        "dataset_columns, as {tools.googleSearch: null}",
    ),
    ({"prompt": "Hi", "context": "He is Otto.", "completion": "Yes?"}, "field context is not read: write it into the"),
    ({"instruction": "French", "prompt": "Hi", "completion": "Yes?"}, "the field instruction is unknown"),
    ({"prompt": "Hi", "completion": "Yes?", "label": False}, "the field label is not read: it marks good and bad"),
    ({"messages": [USER, ASSISTANT], "tols": [WEATHER]}, "the field tols is unknown (did you mean tools?)"),
    (messages(USER, ASSISTANT | {"wieght": 0}), "turn 2: the field wieght is unknown (did you mean weight?)"),
    (messages(USER, ASSISTANT | {"weight": 0.5}), "turn 2: weight is '0.5'; a turn is learned (1) or not (0)"),
    (messages(USER, ASSISTANT | {"weight": 0, "train": True}), "turn 2: weight and train disagree"),
    (messages(USER | {"train": True}, ASSISTANT), "turn 1: train says to learn a turn of the user"),
    (messages(USER, ASSISTANT | {"reasoning": "a", "thinking": "b"}), "reasoning and thinking have different texts"),
    (messages(USER, USER, ASSISTANT), "user instead of assistant; set same_role to merge to join them"),
    (
        messages(ASSISTANT, USER),
        "the roles do not alternate: assistant instead of system or user: put a message of the user in front of",
    ),
    (messages(USER, ASSISTANT | {"tool_calls": [CALL]}, USER), "turn 2 calls a tool, and no result follows it"),
    (
        messages(USER, {"role": "tool", "content": "x"}, ASSISTANT),
        "turn 2 is a tool's result, and the turn before calls",
    ),
    (
        messages(*OPENAI_TOOLS["messages"][:2], {"role": "tool", "tool_call_id": "b", "content": "x"}),
        "no call before it",
    ),
    (messages(USER, {"role": "assistant", "tool_calls": [CALL | {"type": "x"}]}), "a call of the type 'x'"),
    (
        messages(USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
        "is not JSON",
    ),
    (
        messages(USER | {"name": "Ada"}, ASSISTANT, USER | {"name": "Eve"}, ASSISTANT),
        "several names of the user (Ada, Eve): no chat template of Gemma shows names: write them into the texts; to "
        "ignore them, add {messages.name: null} to dataset_columns",
    ),
    (
        messages(USER | {"name": "Ada"}, {"role": "assistant", "content": "Yes, Ada?"}),
        "the assistant says the user's name Ada: no chat template of Gemma shows names",
    ),
    (messages(USER | {"name": 7}, ASSISTANT), "turn 1: name is not a text"),
    (
        {"messages": [USER, ASSISTANT], "Team": "a", "Reply": "b"},
        "the fields Team, Reply are unknown: say in dataset_columns what they are; to ignore them, add {Team: null, "
        "Reply: null} to dataset_columns",
    ),
    (
        {"messages": [USER, ASSISTANT], **{f"x{number}": 1 for number in range(9)}},
        "x7 and 1 more are unknown",
    ),
    ({"messages": [USER, ASSISTANT], "images": ["a.png"]}, "a picture, which only a vision job can have"),
    ({"messages": [USER, ASSISTANT], "prompt": "Ho"}, "the field prompt is unknown"),
    ({"conversatons": "[…]"}, "set dataset_columns, such as {conversations: conversatons}"),
    ({"Frage": "Hi", "Antwort": "Yes?"}, "such as {prompt: …, completion: …, …: null}, with null for each field"),
    ({"query": "Hi", "reply": "Yes?"}, "the row has query, reply: if these are other names of a format's fields"),
    ({"question": "Hi"}, "the row has question and no answer, or an empty one; it has question"),
    ({"question": "Hi", "Answer.": "Yes?"}, "such as {answer: Answer.}"),
    ({"prompt": "Hi", "reply": "Yes?"}, "set dataset_columns, such as {completion: reply}"),
    ({"instruction": "Hi", "reply": "Yes?", "id": "7"}, "set dataset_columns, such as {output: …}"),
    ({"conversation_id": 1, "conversatons": "[…]"}, "such as {conversations: conversatons}"),
    ({"prompt": {}, "completion": "x"}, "prompt is neither a text nor a list of messages"),
    (messages({"role": "asker", "content": "Hi"}), "turn 1: unknown role 'asker'; known ones are system"),
    ({}, "an empty row"),
    ({"text": "abc", "images": ["a.png"]}, "the field images is not read"),
]


@pytest.mark.parametrize(("row", "expected"), REFUSED, ids=[expected[:40] for _, expected in REFUSED])
def test_what_cannot_be_honoured_refuses_its_row_by_name(row: dict[str, Any], expected: str) -> None:
    assert expected in reason(row)


def test_two_functions_of_glaives_are_two_tools() -> None:
    other = WEATHER | {"name": "clock", "description": "Says {hour} {minute}."}
    read = table.read(glaive(functions=f"{json.dumps(WEATHER)}\n\n{json.dumps(other, indent=2)}"))
    assert not isinstance(read, Refused), read.reason
    assert isinstance(read.content, Conversation)
    assert [tool["function"] for tool in read.content.tools] == [WEATHER, other]
    assert read.unread_fields == ("functions of the system message",)


def test_apostrophes_in_a_call_of_glaives_are_read() -> None:
    for written in ("What's up", "What\\'s up"):
        read = table.read(glaive(call=f"""{{"name": "weather", "arguments": '{{"city": "{written}"}}'}}"""))
        assert not isinstance(read, Refused), read.reason
        assert isinstance(read.content, Conversation)
        assert read.content.turns[2].calls[0].arguments == {"city": "What's up"}


def test_functions_and_calls_of_glaives_stay_text_on_request() -> None:
    row = glaive()
    read = table.read(row, ReadOptions(columns={"tools": None}))
    assert not isinstance(read, Refused), read.reason
    assert isinstance(read.content, Conversation)
    assert read.content.tools == ()
    system, _, call, response, answer = (turn.content for turn in read.content.turns)
    assert system == row["system"].removeprefix("SYSTEM: ").strip()
    assert call in row["chat"]
    assert call.startswith("<functioncall> {")
    assert (response, answer) == ("FUNCTION RESPONSE: sunny", "Sunny.")
    assert read.unread_fields == ("<functioncall>",)


@pytest.mark.parametrize("text", [" " * 500_000, "\n" * 500_000, "}\n" * 250_000, '"a":' * 120_000])
@pytest.mark.timeout(60)  # it takes less than a second in linear time
def test_long_transcripts_are_read_in_linear_time(text: str) -> None:
    """Quadratic time would be several minutes (calculated)."""
    for row in (
        {"chat": f"USER: Hi\nASSISTANT: <functioncall> {text}"},
        {"chat": f"USER: Hi\nASSISTANT: Yes?{text}", "system": f"{text} with access to the following functions {text}"},
        glaive(functions=text),
        glaive(call='{"name": "weather"' + text),
        glaive(call='{"name": "weather", "arguments": ' + text),
    ):
        assert isinstance(table.read(row), table.ReadRow | Refused)


def test_further_answers_of_squad_are_counted() -> None:
    read = table.read({"question": "Who?", "answers": {"text": ["Otto", "Otto", "he"], "answer_start": [6, 6, 0]}})
    assert not isinstance(read, Refused), read.reason
    assert read.content == CHAT.with_turns([Turn("user", "Who?"), Turn("assistant", "Otto")])
    assert read.unread_fields == ("answers.answer_start", "answers.text after the first")


def test_names_that_tell_nothing_are_counted() -> None:
    named = [USER | {"name": "Ada"}, ASSISTANT | {"name": "Marvin"}] * 2
    read = table.read({"messages": [{"role": "system", "content": "Be brief.", "name": "rules"}, *named]})
    assert not isinstance(read, Refused), read.reason
    assert read.content == WITH_SYSTEM.with_turns([*WITH_SYSTEM.turns, *CHAT.turns])
    assert read.unread_fields == ("messages.name",)
    assert not isinstance(table.read({"messages": [USER | {"name": "Ye"}, ASSISTANT]}), Refused)  # no whole word
    spoken = [{"from": "human", "value": "Hi", "name": "Ada"}, {"from": "gpt", "value": "Yes?"}]
    read = table.read({"conversations": spoken})
    assert not isinstance(read, Refused), read.reason
    assert read.unread_fields == ("conversations.name",)


@pytest.mark.parametrize("ignored", ["label", "Label"])
def test_a_field_can_be_ignored_in_either_case(ignored: str) -> None:
    read = table.read({"Prompt": "Hi", "Completion": "Yes?", "Label": "x"}, ReadOptions(columns={ignored: None}))
    assert not isinstance(read, Refused), read.reason
    assert (read.content, read.unread_fields) == (CHAT, (ignored,))
    options = ReadOptions(columns={"prompt": "Text", "Prompt": None})
    read = table.read({"Prompt": "Ho", "Text": "Hi", "Completion": "Yes?"}, options)
    assert not isinstance(read, Refused), read.reason
    assert read.content == CHAT


@pytest.mark.timeout(60)  # it takes less than a second in linear time
def test_a_row_of_very_many_fields_is_read_in_linear_time() -> None:
    """Half of the names mean one field.

    Quadratic time would be several minutes (calculated).
    """
    usual = "systeminstruction"
    written = (
        "".join(each.upper() if number >> place & 1 else each for place, each in enumerate(usual))
        for number in range(1, 2**17, 2)
    )
    row: dict[str, Any] = {f"A{number}": 1 for number in range(150_000)} | dict.fromkeys(written, 1)
    renamed = table.renamed(row, ReadOptions())
    assert len(renamed) == len(row)
    assert "systemInstruction" in renamed


def test_names_of_unknown_fields_are_not_kept() -> None:
    table._with_fields.cache_clear()
    sizes = set()
    for number in range(3):
        table.read({"prompt": "Hi", "completion": "Yes?", f"other {number}": 1})
        sizes.add(table._with_fields.cache_info().currsize)
    assert len(sizes) == 1


def test_fields_with_rows_of_a_file_are_known_in_rows_too() -> None:
    assert set(WRAPPERS) == wrapped_rows.NAMES


def test_other_branches_of_an_export_are_counted() -> None:
    read = table.read(chatgpt({"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Yes?"}))
    assert not isinstance(read, Refused), read.reason
    assert {"other branches of mapping", "title", "mapping.status", "safe_urls"} <= {*read.unread_fields}


def test_a_cell_without_text_is_named_as_its_column_is() -> None:
    options = ReadOptions(columns={"prompt": "Frage", "completion": "Antwort", "Preis": None})
    expected = "no Antwort, or an empty one, which dataset_columns says is its completion; it has Frage"
    assert expected in reason({"Frage": "Hi", "Antwort": None, "Preis": "2,50"}, options)


def test_columns_can_be_renamed_and_ignored_on_purpose() -> None:
    row = {"conv": [USER | {"name": "Ada"}, ASSISTANT], "label": False, "id": 7}
    options = ReadOptions(columns={"messages": "conv", "label": None, "messages.name": None})
    read = table.read(row, options)
    assert not isinstance(read, Refused), read.reason
    assert read.content == CHAT
    assert set(read.unread_fields) == {"label", "messages.name", "id"}
    assert "a field messages beside conv" in reason(row | {"messages": [USER, ASSISTANT]}, options)


@pytest.mark.parametrize("empty", ["", " \n", [{"type": "text", "text": ""}]])
def test_an_empty_system_message_is_the_same_as_none(empty: Any) -> None:
    for row in (
        messages({"role": "system", "content": empty}, USER, ASSISTANT),
        {"prompt": "Hi", "completion": "Yes?", "system": empty if isinstance(empty, str) else ""},
    ):
        read = table.read(row)
        assert not isinstance(read, Refused), read.reason
        assert read.content == CHAT
    assert "an empty message" in reason(messages({"role": "system", "content": empty}))


@pytest.mark.parametrize(
    "roles", [("human", "gpt"), ("User", "Chatbot"), ("USER", "ASSISTANT"), ("user", "model"), ("human", "bot")]
)
def test_roles_have_the_names_of_other_tools_and_any_case(roles: tuple[str, str]) -> None:
    turns = [{"role": role, "content": turn["content"]} for role, turn in zip(roles, (USER, ASSISTANT), strict=True)]
    read = table.read(messages({"role": "System", "content": "Be brief."}, *turns))
    assert not isinstance(read, Refused), read.reason
    assert read.content == Conversation((Turn("system", "Be brief."), *CHAT.turns))


ROLES = st.sampled_from(["user", "assistant", "system", "tool", "model", "User", "narrator", "", 5, None, ["user"]])
CONTENTS = st.one_of(st.text(st.characters(), max_size=3), st.none(), st.just([{"type": "text", "text": "Hi"}]))
FIELDS = st.dictionaries(st.sampled_from(["weight", "name", "id", "more"]), st.sampled_from([1, "x", ""]), max_size=1)


@settings(max_examples=300, deadline=None)
@given(turns=st.lists(st.tuples(ROLES, CONTENTS, FIELDS), min_size=1, max_size=3))
def test_messages_of_a_role_and_a_text_are_read_as_any_others(turns: list[tuple[Any, Any, dict[str, Any]]]) -> None:
    row = {"messages": [{"role": role, "content": content, **more} for role, content, more in turns]}
    reads_each_field = ReadOptions(columns={"messages.absent": None})
    assert table.read(row) == table.read(row, reads_each_field)


def test_columns_can_swap_their_names() -> None:
    read = table.read(
        {"prompt": "Yes?", "completion": "Hi"}, ReadOptions(columns={"prompt": "completion", "completion": "prompt"})
    )
    assert not isinstance(read, Refused)
    assert read.content == CHAT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"role": "user", "content": "Hi"}]', "Hi"),
        ('[{"content": "Hi", "role": "user"}]', "Hi"),
        ('[{"from": "Bonn", "to": "Ulm"}]', '[{"from": "Bonn", "to": "Ulm"}]'),
        ('[{"value": 3}] is JSON', '[{"value": 3}] is JSON'),
        ("[1]", "[1]"),
    ],
)
def test_messages_as_json_text_are_told_from_other_texts(text: str, expected: str) -> None:
    read = table.read({"prompt": text, "completion": "Yes?"})
    assert not isinstance(read, Refused), read.reason
    assert read.content == Conversation((Turn("user", expected), CHAT.turns[1]))


@pytest.mark.parametrize("text", ["[{'role': 'user', 'content': 'Hi'}]", "[{'content': 'Hi',\n 'role': 'user'}]"])
def test_lists_as_python_prints_them_are_refused(text: str) -> None:
    for row in ({"prompt": text, "completion": "Yes?"}, {"messages": text}):
        assert "not JSON: write it with json.dumps" in reason(row)
    assert "is a text that is not JSON" in reason({"prompt": text.replace("'", '"')[:-4], "completion": "Yes?"})


def test_turns_of_one_role_are_merged_on_request() -> None:
    read = table.read(messages(USER, USER | {"content": "there"}, ASSISTANT), ReadOptions(same_role="merge"))
    assert not isinstance(read, Refused)
    assert read.content == CHAT.with_turns([Turn("user", "Hi\n\nthere"), CHAT.turns[1]])
    mixed = messages(USER, ASSISTANT, ASSISTANT | {"weight": 0})
    assert "only one is trained" in reason(mixed, ReadOptions(same_role="merge"))


@pytest.mark.parametrize("flag", ["weight", "train", "training", "loss_mask", "loss"])
@pytest.mark.parametrize(("value", "trained"), [(0, False), (1, True), (False, False), (True, True), (None, None)])
def test_flags_of_turns_are_read(flag: str, value: object, trained: bool | None) -> None:
    read = table.read(messages(USER, ASSISTANT | {flag: value}))
    assert not isinstance(read, Refused)
    assert isinstance(read.content, Conversation)
    assert read.content.turns[1].trained is trained


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_harmless_fields_are_counted_by_name(name: str) -> None:
    read = table.read({"prompt": "Hi", "completion": "Yes?", name: "x"})
    assert not isinstance(read, Refused)
    assert (read.content, read.unread_fields) == (CHAT, (name,))


PNG = {"bytes": b"\x89PNG", "path": None}
WITH_PICTURES: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    (messages(USER | {"content": "<image>what?"}, ASSISTANT) | {"images": ["a.png"]}, (Image("a.png"), Text("what?"))),
    ({"prompt": "what?", "completion": "Yes?", "image": PNG}, (Image(PNG), Text("what?"))),
    (
        {"question": "this <image>\nor <image>?", "answer": "Yes?", "images": ["a", "b"]},
        (Text("this "), Image("a"), Text("\nor "), Image("b"), Text("?")),
    ),
    (
        messages({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}, ASSISTANT)
        | {"images": [PNG]},
        (Image(PNG), Text("Hi")),
    ),
    (
        messages(
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
            ASSISTANT,
        ),
        (Image("data:image/png;base64,AA=="),),
    ),
    (
        {
            "contents": [
                {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}, {"text": "Hi"}]},
                {"role": "model", "parts": [{"text": "Yes?"}]},
            ]
        },
        (Image({"bytes": "AA=="}), Text("Hi")),
    ),
    (
        messages(
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                    {"type": "text", "text": "Hi"},
                ],
            },
            ASSISTANT,
        ),
        (Image({"bytes": "AA=="}), Text("Hi")),
    ),
]


@pytest.mark.parametrize(("row", "content"), WITH_PICTURES)
def test_pictures_are_put_where_the_row_says(row: dict[str, Any], content: tuple[Any, ...]) -> None:
    read = table.read(row, ReadOptions(with_pictures=True))
    assert not isinstance(read, Refused), read.reason
    assert read.content == Conversation((Turn("user", content), CHAT.turns[1]))
    assert "a picture, which only a vision job can have" in reason(row)


CLIP = {"bytes": "AA=="}
WITH_AUDIO: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    (messages(USER | {"content": "<audio>Hi"}, ASSISTANT) | {"audios": ["a.wav"]}, (Audio("a.wav"), Text("Hi"))),
    (messages(USER | {"content": "Hi<audio>"}, ASSISTANT) | {"audio": CLIP}, (Text("Hi"), Audio(CLIP))),
    (
        messages(USER, ASSISTANT) | {"audio": {"bytes": b"A", "path": "a.wav"}},
        (Audio({"bytes": b"A", "path": "a.wav"}), Text("Hi")),
    ),
    (
        messages(USER | {"content": [{"type": "audio"}, {"type": "text", "text": "Hi"}]}, ASSISTANT)
        | {"audio": "a.wav"},
        (Audio("a.wav"), Text("Hi")),
    ),
    *(
        (messages(USER | {"content": [part, {"type": "text", "text": "Hi"}]}, ASSISTANT), (Audio(file), Text("Hi")))
        for part, file in (
            ({"type": "audio", "audio": CLIP}, CLIP),
            ({"type": "audio", "path": "a.wav"}, "a.wav"),
            ({"type": "audio", "url": "data:audio/wav;base64,AA=="}, "data:audio/wav;base64,AA=="),
            ({"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AA=="}}, "data:audio/wav;base64,AA=="),
            ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, CLIP),
        )
    ),
    (
        {
            "contents": [
                {"role": "user", "parts": [{"inlineData": {"mimeType": "audio/wav", "data": "AA=="}}, {"text": "Hi"}]},
                {"role": "model", "parts": [{"text": "Yes?"}]},
            ]
        },
        (Audio(CLIP), Text("Hi")),
    ),
]


@pytest.mark.parametrize(("row", "content"), WITH_AUDIO)
def test_audio_is_put_where_the_row_says(row: dict[str, Any], content: tuple[Any, ...]) -> None:
    read = table.read(row, ReadOptions(with_audio=True))
    assert not isinstance(read, Refused), read.reason
    assert read.content == Conversation((Turn("user", content), CHAT.turns[1]))
    for options in (ReadOptions(), ReadOptions(with_pictures=True)):
        assert "audio, which only an audio job can have: set modality to audio" in reason(row, options)


def test_audio_of_others_than_users_and_marks_without_audio_are_refused() -> None:
    options = ReadOptions(with_audio=True)
    spoken = ASSISTANT | {"content": [{"type": "audio", "audio": CLIP}]}
    assert "audio in a message of the assistant; only users can send it" in reason(messages(USER, spoken), options)
    deaf = messages(USER | {"content": "<audio>What?"}, ASSISTANT)
    assert "no audio clips in a column audios, and 1 places for them" in reason(deaf, options)
    assert not isinstance(table.read(deaf), Refused)  # in a text job the mark is a text
    assert "2 audio clips, and 1 places for them" in reason(deaf | {"audios": ["a.wav", "b.wav"]}, options)
    assert "a picture, which only a vision job can have" in reason(deaf | {"image": "a.png", "audio": "a.wav"}, options)
    unknown = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav", "gain": 2}}
    assert "the field" in reason(messages(USER | {"content": [unknown]}, ASSISTANT), options)


def test_marks_and_pictures_have_to_be_as_many() -> None:
    row = messages(USER | {"content": "<image> or <image>?"}, ASSISTANT) | {"images": ["a.png"]}
    assert "1 pictures, and 2 places for them" in reason(row, ReadOptions(with_pictures=True))
    for images in ({}, {"images": None}, {"images": []}):
        blind = messages(USER | {"content": "<image>\nWhat?"}, ASSISTANT) | images
        assert "no pictures in a column images, and 1 places" in reason(blind, ReadOptions(with_pictures=True))
        assert not isinstance(table.read(blind), Refused)  # in a text job the mark is a text


def test_a_stated_format_names_the_field_that_a_row_lacks() -> None:
    assert reason({"prompt": "Hi", "completion": "Yes?"}, ReadOptions(format="alpaca")) == "the row has no output"
    assert reason({"prompt": "Hi"}, ReadOptions(format="openai")) == "the row has no messages"


ANY_TEXT = st.text(st.characters(), max_size=3)  # including lone surrogates
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(ANY_TEXT | st.sampled_from(["type", "url"]), inner),
    max_leaves=4,
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value inside of a value."""
    items: list[Any] = list(value.items()) if isinstance(value, dict) else []
    items += enumerate(value) if isinstance(value, list) else []
    for name, inner in items:
        yield (*place, name)
        yield from places(inner, (*place, name))


@settings(max_examples=300)
@given(st.data(), st.booleans(), st.booleans())
def test_a_row_with_anything_anywhere_is_read_or_refused(
    data: st.DataObject, with_pictures: bool, with_audio: bool
) -> None:
    row = copy.deepcopy(
        data.draw(st.sampled_from([each for _, each, _ in ROWS] + [each for each, _ in (*WITH_PICTURES, *WITH_AUDIO)]))
    )
    *above, name = data.draw(st.sampled_from(list(places(row))))
    parent: Any = row
    for each in above:
        parent = parent[each]
    parent[name] = data.draw(ANY)
    read = table.read(row, ReadOptions(with_pictures=with_pictures, with_audio=with_audio))
    if isinstance(read, Refused):
        assert read.reason.encode()
    elif isinstance(read.content, Conversation):
        assert json.dumps([turn.message() for turn in read.content.turns], default=repr).encode()
        assert all(text.encode() is not None for text in read.content.texts())
