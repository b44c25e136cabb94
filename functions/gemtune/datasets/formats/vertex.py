"""Vertex AI's rows for tuning Gemini, which are requests of its API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gemtune.datasets.conversation import Conversation, Medium, Part, Role, Text, ToolCall, Turn
from gemtune.datasets.reading.content import audio_of, image_of, joined
from gemtune.datasets.reading.fields import Fields, shown
from gemtune.datasets.reading.flags import read_flag
from gemtune.datasets.reading.shape import Format, Row
from gemtune.datasets.reading.tools import arguments_of, from_json, name_of, read_tools, structured
from gemtune.datasets.reading.turns import message_list, result_turn, role_of

ROLES: Mapping[str, Role] = {
    "user": "user",
    "model": "assistant",
    "function": "tool",
    "tool": "tool",
    "system": "system",
}


DECLARATIONS = ("functionDeclarations", "function_declarations")


def _fits(row: Row) -> bool:
    return "contents" in row


def read_contents(row: Fields) -> Conversation:
    """Return the conversation of contents, with its instruction and tools.

    Raises BadRow.
    """
    turns: list[Turn] = []
    instruction = row.take_first("systemInstruction", "system_instruction")
    if isinstance(parts := structured(instruction), Mapping) and "parts" in parts:
        instruction = parts
    if isinstance(instruction, str):
        turns.append(Turn("system", instruction))
    elif instruction is not None:
        turns += content_turns(row.within(instruction, "systemInstruction", "systemInstruction"), role="system")
    for number, each in enumerate(message_list(row.take("contents"), row, "contents"), 1):
        turns += content_turns(row.within(each, "contents", f"turn {number}"))
    return Conversation(tuple(turns), _tools(row))


def _tools(row: Fields) -> tuple[dict[str, Any], ...]:
    """Return the functions that the model can call. Raises BadRow."""
    value = row.take("tools")
    groups = [] if value is None else from_json(value, row, "tools")
    tools: list[dict[str, Any]] = []
    for group in groups if isinstance(groups, list) else [groups]:
        fields = row.within(group, "tools", "tools")
        # Tools of Google's own are empty objects, such as {"googleSearch": {}}, which say that they can be used.
        for name in fields.names() - {*DECLARATIONS}:
            raise fields.bad(
                f"a tool {shown(name)}; only functionDeclarations can be given to a model here: ignore it in "
                f"dataset_columns, as {{{fields.path_of(name)}: null}}"
            )
        tools += read_tools(fields.take_first(*DECLARATIONS), fields)
        fields.close(harmless=())
    return tuple(tools)


def content_turns(fields: Fields, role: Role | None = None) -> list[Turn]:
    """Return the turns of one content; each result of a function is one.

    role: of the content, if it need not say so. Raises BadRow.
    """
    named = fields.take("role")
    role = role or role_of(named if named is not None else "user", ROLES, fields)
    parts = fields.take("parts")
    if not isinstance(parts, list) or not parts:
        raise fields.bad("parts is not a list")
    trained = read_flag(fields, role)
    fields.close()
    content: list[Part] = []
    results: list[Turn] = []
    calls: list[ToolCall] = []
    thoughts: list[str] = []
    for part in parts:
        inner = fields.within(part, "parts")
        result = inner.take_first("functionResponse", "function_response")
        call = inner.take_first("functionCall", "function_call")
        data = inner.take_first("inlineData", "inline_data", "fileData", "file_data")
        thought, text = inner.take("thought"), inner.take_text("text")
        inner.close(harmless={"thoughtSignature", "thought_signature"})
        if result is not None:
            results.append(_result(inner.within(result, "functionResponse", "functionResponse")))
        elif call is not None:
            calls.append(_call(inner.within(call, "functionCall", "functionCall")))
        elif data is not None:
            content.append(_medium(inner.within(data, "inlineData", "inlineData"), role))
        elif text is None:
            raise fields.bad("a part without text, inlineData, functionCall or functionResponse")
        elif thought:
            thoughts.append(text)
        else:
            content.append(Text(text))
    if (calls or thoughts) and role != "assistant":
        raise fields.bad("only the model calls functions and thinks")
    if role == "tool" and not results:
        raise fields.bad("it has no functionResponse")
    if results and role not in ("tool", "user"):
        raise fields.bad(f"a functionResponse in a content of the {role}")
    turn = Turn(role, joined(content), "\n\n".join(thoughts), tuple(calls), trained=trained)
    return [*results, turn] if content or calls or thoughts or not results else results


def _call(fields: Fields) -> ToolCall:
    call_id = fields.take_text("id")
    call = ToolCall(name_of(fields), arguments_of(fields.take("args"), fields), call_id)
    fields.close(harmless=())
    return call


def _result(fields: Fields) -> Turn:
    """Return the result of a function, an object."""
    call_id, name, response = fields.take_text("id"), name_of(fields), fields.take("response")
    fields.close(harmless=())
    return replace(result_turn(response, fields), call_id=call_id, tool_name=name)


def _medium(fields: Fields, role: Role) -> Medium:
    """Return the picture or audio of inlineData or fileData.

    It is audio if its MIME type says so. Raises BadRow.
    """
    kind = fields.take_first("mimeType", "mime_type")
    data, uri = fields.take_text("data"), fields.take_first("fileUri", "file_uri")
    fields.close(harmless={"displayName"})
    read = audio_of if isinstance(kind, str) and kind.startswith("audio/") else image_of
    return read({"bytes": data} if data is not None else uri, role, fields)


VERTEX = Format(
    "vertex",
    "Vertex AI: `contents` of {role, parts}, with functionCall, functionResponse and inlineData; `systemInstruction`, "
    "`tools`",
    ("contents", "systemInstruction", "tools"),
    _fits,
    read_contents,
)
