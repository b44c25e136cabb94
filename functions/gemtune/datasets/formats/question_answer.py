"""Rows of a question and its answer."""

from __future__ import annotations

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.formats.shape import Format, Row
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import read_tools, template_options
from gemtune.datasets.reading.turns import column_turns, system_turns


def _fits(row: Row) -> bool:
    return "question" in row and "answer" in row


def _read(row: Fields) -> Conversation:
    turns = [*system_turns(row), *column_turns(row, "question", "user"), *column_turns(row, "answer", "assistant")]
    return Conversation(tuple(turns), read_tools(row.take("tools"), row), template_options(row))


QUESTION_ANSWER = Format(
    "question_answer",
    "`question` and `answer`; `system`, `tools`",
    ("question", "answer", "system", "system_prompt", "tools", "chat_template_kwargs", "enable_thinking"),
    _fits,
    _read,
)
