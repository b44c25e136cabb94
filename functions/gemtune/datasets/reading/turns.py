"""Turns: lists of messages in OpenAI's shape."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gemtune.datasets.conversation import Content, Role, Turn
from gemtune.datasets.reading.content import read_content
from gemtune.datasets.reading.fields import Fields, cell_text, kind_of, unicode_text
from gemtune.datasets.reading.flags import read_flag
from gemtune.datasets.reading.names import leave_name
from gemtune.datasets.reading.tools import from_json, name_of, read_calls, structured, without_nulls
from gemtune.datasets.reading.transcript import prompt_of

# Names of roles in OpenAI's shape, in lower case. `model` is the assistant's name in Gemma's turn format, `chatbot` in
# Cohere's rows, `prompter` the user's in OpenAssistant's; ShareGPT's names are common in this shape, too.
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
}
# Keys of messages, and the beginning of a list of these as JSON or as Python writes it.
_KEYS = ("role", "content", "tool_calls", "from", "value")
_FIRST_MESSAGE = re.compile(r"""\s*(?P<list>\[?)\s*\{\s*["'](?:role|content|from|value|weight|name)["']\s*:""")
# Columns with a system message beside the others.
SYSTEM = ("system", "system_prompt")
# Fields with what the assistant thinks before it answers.
THINKING = ("reasoning_content", "reasoning", "thinking")


def column_turns(fields: Fields, column: str, role: Role) -> list[Turn]:
    """Return the turns in a column. Raises BadRow.

    It is a list of messages or a single one, also as JSON text, a transcript that ends with `Assistant:` if the role is
    the user's, or another text, which is one message of the role.
    """
    value = by_message(cell_text(fields.take(column)))
    if isinstance(value, Mapping) and value.get("role") is not None:
        value = [value]  # a single message
    if role == "user" and (turns := prompt_of(value)) is not None:
        return turns
    if is_text(value):
        return [Turn(role, read_content(value, role, fields))]
    texts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    if texts and all(is_text(each, or_message=True) for each in texts):
        raise fields.bad(
            f"{column} has several texts: write a row for each, as pandas does with to_json(orient='records', "
            "lines=True)"
        )
    if value is not None and not isinstance(value, str | list):
        raise fields.bad(f"{column} is {kind_of(value)}neither a text nor a list of messages")
    return read_turns(value, fields, column)


def is_text(value: Any, *, or_message: bool = False) -> bool:
    """Return whether a value is a text that is not a list of messages.

    Files without lists, such as CSV, have messages as JSON text, or by mistake as Python writes lists. or_message: a
    single message is no text either.
    """
    begin = _FIRST_MESSAGE.match(value) if isinstance(value, str) else None
    if begin is None or not (begin["list"] or or_message):
        return isinstance(value, str)
    named = {name for name in _KEYS if f'"{name}"' in value or f"'{name}'" in value}
    return not ({"role", "content"} <= named or {"role", "tool_calls"} <= named or {"from", "value"} <= named)


def read_turns(value: Any, fields: Fields, column: str) -> list[Turn]:
    """Return the turns of a list of messages, or of one as JSON text.

    fields: of the row. column: the field that has the list. Raises BadRow.
    """
    turns: list[Turn] = []
    for number, each in enumerate(message_list(value, fields, column), 1):
        turn = None if fields.reading.ignored else _text_alone(each)
        turns += read_message(fields.within(each, column, f"turn {number}")) if turn is None else [turn]
    return turns


def _text_alone(message: Any) -> Turn | None:
    """Return the turn of a message that has a role and a text, and no more.

    Most messages are such, and `read_message`, which returns the same turn, takes several times as long. Returns None
    for any other message. Raises BadRow.
    """
    if not isinstance(message, dict) or len(message) != 2:
        return None
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str) or role not in ROLES:
        return None
    return Turn(ROLES[role], unicode_text(content))


def message_list(value: Any, fields: Fields, column: str) -> Sequence[Any]:
    """Return the messages of a column, undecoded. Raises BadRow."""
    if isinstance(value, str) and re.match(r"\s*\[\s*\{\s*'", value):
        raise fields.bad(f"{column} is a list as Python prints it, not JSON: write it with json.dumps")
    messages = (
        from_json(value, fields, column) if isinstance(value, str) and value.lstrip().startswith(("[", "{")) else value
    )
    if messages is None:
        raise fields.bad(f"the row has no {column}")
    messages = by_message(messages)
    if not isinstance(messages, list) or not messages:
        raise fields.bad(f"{column} is {'an empty list' if messages == [] else 'not a list of messages'}")
    return [structured(message) for message in messages]  # columns of texts have each message as JSON text


def read_message(fields: Fields) -> list[Turn]:
    """Return the turns of one message.

    It is one, or one per result if the message has several results of tools. Raises BadRow.
    """
    value = fields.peek("content")
    if isinstance(value, str):
        return [read_turn(fields)]
    if isinstance(value, Mapping) or (isinstance(value, list) and any(is_response(each) for each in value)):
        role = role_of(fields.peek("role"), ROLES, fields)
        if role == "tool":
            return _results(fields)
    return [read_turn(fields)]


def is_response(value: Any) -> bool:
    """Return whether a value is a result with a name, {name, response}."""
    return isinstance(value, Mapping) and value.get("name") is not None and value.get("response") is not None


def _results(fields: Fields) -> list[Turn]:
    """Return the results of a tool's message, one or several objects.

    An object is {name, response}, or the response itself. Raises BadRow.
    """
    fields.take("role")
    content = fields.take("content")
    call_id, named = fields.take_text("tool_call_id"), fields.take_first("name", "tool_name")
    if named is not None and not isinstance(named, str):
        raise fields.bad("name is not a text")
    trained = read_flag(fields, "tool")
    fields.close()
    results = content if isinstance(content, list) else [content]
    if call_id is not None and len(results) > 1:
        raise fields.bad("several results have one tool_call_id: write a message for each")
    turns = []
    for number, each in enumerate(results, 1):
        name, response = named, each
        if is_response(each) or isinstance(content, list):
            result = fields.within(each, "content", "" if len(results) == 1 else f"result {number}")
            own, response = name_of(result), result.take("response")
            if named not in (None, own):
                raise fields.bad(f"its name is {named[:60]!r}, and its result has the name {own[:60]!r}")
            result.close(harmless=())
            name = own
        turns.append(replace(result_turn(response, fields), call_id=call_id, tool_name=name, trained=trained))
    return turns


def result_turn(response: Any, fields: Fields) -> Turn:
    """Return the result of a tool, an object or another value. Raises BadRow."""
    if isinstance(response, str):
        return Turn("tool", unicode_text(response))
    value = without_nulls(from_json(response, fields, "response"))
    text = json.dumps(value, ensure_ascii=False)
    return Turn("tool", text, response=value if isinstance(value, Mapping) else None)


def by_message(messages: Any) -> Any:
    """Return messages that are stored as one list per field as a list of them.

    So the library datasets stores a `Sequence` of objects: {role: [user, assistant], content: [Hi, Hello]}. Anything
    else stays as it is.
    """
    if not isinstance(messages, Mapping):
        return messages
    columns = {name: values for name, values in messages.items() if values is not None}
    lengths = {len(values) if isinstance(values, list) else None for values in columns.values()}
    if len(lengths) != 1 or None in lengths:
        return messages
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def read_turn(fields: Fields) -> Turn:
    """Return one message as a turn. Raises BadRow."""
    role = role_of(fields.take("role"), ROLES, fields)
    calls = read_calls(fields.take_first("tool_calls", "function_call"), fields) if role == "assistant" else ()
    content: Content = ""
    if "content" in fields:
        content = read_content(fields.take("content"), role, fields)
    elif not calls and role != "tool":
        refusal = fields.peek("refusal")
        raise fields.bad(
            "a message needs role and content"
            if refusal is None
            else "it has a refusal and no content: write the refusal into content"
        )
    thinking = thinking_of(fields) if role == "assistant" else ""
    call_id = tool_name = None
    if role == "tool":
        call_id, tool_name = fields.take_text("tool_call_id"), fields.take_first("name", "tool_name")
        if tool_name is not None and not isinstance(tool_name, str):
            raise fields.bad("name is not a text")
    trained = read_flag(fields, role)
    leave_name(fields, role)
    fields.close()
    return Turn(role, content, thinking, calls, call_id, tool_name, trained)


def role_of(role: Any, roles: Mapping[str, Role], fields: Fields) -> Role:
    """Return the role that a format calls by this name.

    roles: by name in lower case. Raises BadRow.
    """
    if role is None:
        raise fields.bad("a message needs role and content")
    if not isinstance(role, str):
        raise fields.bad("a role is not a text")
    if role.casefold() not in roles:
        raise fields.bad(f"unknown role {role[:40]!r}; known ones are {', '.join(roles)}")
    return roles[role.casefold()]


def thinking_of(fields: Fields) -> str:
    """Return the thoughts of a turn of the assistant, or "".

    Two fields may have the same text. Raises BadRow.
    """
    thoughts = {name: text for name in fields.present(THINKING) if (text := fields.take_text(name))}
    if len({*thoughts.values()}) > 1:
        raise fields.bad(f"{' and '.join(thoughts)} have different texts: keep one")
    return next(iter(thoughts.values()), "")


def system_turns(row: Fields) -> list[Turn]:
    """Return the system turn in a column of its own, if any. Raises BadRow."""
    texts = {name: text for name in row.present(SYSTEM) if (text := row.take_text(name)) and text.strip()}
    if len(texts) > 1:
        raise row.bad(f"{' and '.join(texts)} both have a system message: keep one")
    return [Turn("system", text) for text in texts.values()]
