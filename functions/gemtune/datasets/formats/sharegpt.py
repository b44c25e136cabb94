"""ShareGPT's rows, with tools as LLaMA-Factory writes them."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.datasets.conversation import Conversation, Role, Turn
from gemtune.datasets.reading.content import read_content
from gemtune.datasets.reading.fields import HARMLESS, Fields
from gemtune.datasets.reading.flags import read_flag
from gemtune.datasets.reading.names import leave_name
from gemtune.datasets.reading.shape import Format, Row, first_turn
from gemtune.datasets.reading.tools import read_calls, read_tools, template_options
from gemtune.datasets.reading.turns import message_list, role_of, system_turns, thinking_of

# A call has a role of its own. Its value is {name, arguments}, or a list of these, as JSON text.
CALL = "function_call"
COLUMNS = ("conversations", "conversation")
ROLES: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    CALL: "assistant",
    "observation": "tool",
    "tool": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function": "tool",
}


def _fits(row: Row) -> bool:
    values = [row.get(column) for column in COLUMNS]
    return any("from" in first_turn(value) or (isinstance(value, str) and '"from"' in value) for value in values)


def _read(row: Fields) -> Conversation:
    turns = system_turns(row)
    column = next((name for name in COLUMNS if name in row), COLUMNS[0])
    for number, each in enumerate(message_list(row.take(column), row, column), 1):
        turns.append(read_sharegpt_turn(row.within(each, column, f"turn {number}")))
    return Conversation(tuple(turns), read_tools(row.take("tools"), row), template_options(row))


def read_sharegpt_turn(fields: Fields) -> Turn:
    """Return a message of {from, value} as a turn. Raises BadRow."""
    name = fields.take("from")
    if name is None:
        raise fields.bad("it has no from")
    role = role_of(name, ROLES, fields)
    trained = read_flag(fields, role)
    if name == CALL:
        turn = Turn(role, calls=read_calls(fields.take("value"), fields, "value"), trained=trained)
    else:
        value = fields.take("value")
        if value is None:
            raise fields.bad("it has no value")
        thinking = thinking_of(fields) if role == "assistant" else ""
        turn = Turn(role, read_content(value, role, fields, "value"), thinking, trained=trained)
    leave_name(fields, role)
    fields.close(harmless=HARMLESS | {"markdown"})
    return turn


SHAREGPT = Format(
    "sharegpt",
    "ShareGPT: `conversations` of {from, value}, with calls of tools as `function_call` and `observation`; `system`, "
    "`tools`",
    (*COLUMNS, "system", "system_prompt", "tools", "chat_template_kwargs", "enable_thinking"),
    _fits,
    _read,
)
