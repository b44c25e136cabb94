"""xLAM's rows of function calling: a query, and the calls that answer it."""

from __future__ import annotations

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.shape import Format, Row, first_turn
from gemtune.datasets.reading.tools import read_calls, read_tools, template_options
from gemtune.datasets.reading.turns import column_turns, system_turns


def _fits(row: Row) -> bool:
    return "query" in row and "answers" in row and ("tools" in row or "name" in first_turn(row["answers"]))


def _read(row: Fields) -> Conversation:
    turns = [*system_turns(row), *column_turns(row, "query", "user")]
    calls = read_calls(row.take("answers"), row, "answers")
    if not calls:
        raise row.bad("answers has no call: write the answer as text, with the format openai, or leave the row out")
    tools = read_tools(row.take("tools"), row)
    return Conversation((*turns, Turn("assistant", calls=calls)), tools, template_options(row))


XLAM = Format(
    "xlam",
    "xLAM: `query`, `answers` with the calls of tools, and `tools`, as lists or as JSON text; `system`",
    ("query", "answers", "tools", "system", "system_prompt", "chat_template_kwargs", "enable_thinking"),
    _fits,
    _read,
)
