"""Rows of a question or query, and its answer or response."""

from __future__ import annotations

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.formats.shape import Format, Row
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import read_tools, template_options
from gemtune.datasets.reading.turns import column_turns, system_turns

# OpenOrca has a question with its response, MetaMath a query.
QUESTIONS, ANSWERS = ("question", "query"), ("answer", "response")


def _fits(row: Row) -> bool:
    return any(name in row for name in QUESTIONS) and any(name in row for name in ANSWERS)


def _read(row: Fields) -> Conversation:
    question, answer = row.only(*QUESTIONS), row.only(*ANSWERS)
    turns = [*system_turns(row), *column_turns(row, question, "user"), *column_turns(row, answer, "assistant")]
    return Conversation(tuple(turns), read_tools(row.take("tools"), row), template_options(row))


QUESTION_ANSWER = Format(
    "question_answer",
    "`question` or `query`, with `answer` or `response`; `system`, `tools`",
    (*QUESTIONS, *ANSWERS, "system", "system_prompt", "tools", "chat_template_kwargs", "enable_thinking"),
    _fits,
    _read,
)
