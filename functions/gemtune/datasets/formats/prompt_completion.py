"""Rows of a prompt and what the model completes it with, as TRL has them."""

from __future__ import annotations

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.shape import Format, Row
from gemtune.datasets.reading.tools import read_tools, template_options
from gemtune.datasets.reading.turns import column_turns, system_turns

# Columns that are called by the role belong together.
USER, ASSISTANT = "user", "assistant"


def _fits(row: Row) -> bool:
    return ("prompt" in row and ("completion" in row or "response" in row)) or (USER in row and ASSISTANT in row)


def _read(row: Fields) -> Conversation:
    question, answer = row.only("prompt", USER), row.only("completion", "response", ASSISTANT)
    turns = [*system_turns(row), *column_turns(row, question, "user"), *column_turns(row, answer, "assistant")]
    return Conversation(tuple(turns), read_tools(row.take("tools"), row), template_options(row))


PROMPT_COMPLETION = Format(
    "prompt_completion",
    "`prompt` with `completion` or `response`, or `user` with `assistant`, each a text or a list of messages; "
    "`system`, `tools`",
    (
        *("prompt", "completion", "response", USER, ASSISTANT, "system", "system_prompt", "tools"),
        *("chat_template_kwargs", "enable_thinking"),
    ),
    _fits,
    _read,
)
