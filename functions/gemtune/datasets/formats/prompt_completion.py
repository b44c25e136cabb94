"""Rows of a prompt and what the model completes it with, as TRL has them."""

from __future__ import annotations

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.formats.shape import Format, Row
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import read_tools
from gemtune.datasets.reading.turns import column_turns


def _fits(row: Row) -> bool:
    return "prompt" in row and ("completion" in row or "response" in row)


def _read(row: Fields) -> Conversation:
    answer = "completion" if "completion" in row else "response"
    turns = [*_system(row), *column_turns(row, "prompt", "user"), *column_turns(row, answer, "assistant")]
    return Conversation(tuple(turns), read_tools(row.take("tools"), row))


def _system(row: Fields) -> list[Turn]:
    return system_turns(row, "system", "system_prompt")


def system_turns(row: Fields, *names: str) -> list[Turn]:
    """Return the system turn in a column of its own, if any.

    names: of such columns, of which one may have a text. Raises BadRow.
    """
    texts = {name: text for name in names if (text := row.take_text(name)) and text.strip()}
    if len(texts) > 1:
        raise row.bad(f"{' and '.join(texts)} both have a system message: keep one")
    return [Turn("system", text) for text in texts.values()]


PROMPT_COMPLETION = Format(
    "prompt_completion",
    "`prompt` with `completion` or `response`, each a text or a list of messages; `system`, `tools`",
    ("prompt", "completion", "response", "system", "tools"),
    _fits,
    _read,
)
