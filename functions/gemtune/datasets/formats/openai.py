"""OpenAI's chat rows, which are also those of transformers and TRL."""

from __future__ import annotations

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.formats.anthropic import is_anthropic
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.shape import Format, Row, first_turn
from gemtune.datasets.reading.tools import read_tools, template_options
from gemtune.datasets.reading.turns import read_turns

# Columns of messages beside `messages`. WildChat and LMSYS have the second one.
COLUMNS = ("conversations", "conversation")


def _fits(row: Row) -> bool:
    if "messages" in row:
        return not is_anthropic(row)
    return any("role" in first_turn(row.get(column)) for column in COLUMNS)


def _read(row: Fields) -> Conversation:
    column = next((name for name in COLUMNS if name in row), "messages")
    turns = read_turns(row.take(column), row, column)
    tools = row.take_first("tools", "functions")
    return Conversation(tuple(turns), read_tools(tools, row), template_options(row))


OPENAI = Format(
    "openai",
    "OpenAI chat: `messages` of {role, content}, with `weight`, `tool_calls`, `reasoning_content`; `tools`",
    ("messages", *COLUMNS, "tools", "functions", "chat_template_kwargs", "enable_thinking"),
    _fits,
    _read,
)
