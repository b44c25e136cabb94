"""Alpaca's and Dolly's rows: an instruction, an input for it, and the output."""

from __future__ import annotations

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.reading.fields import Fields, cell_text
from gemtune.datasets.reading.shape import Format, Row
from gemtune.datasets.reading.tools import from_json, read_tools, template_options
from gemtune.datasets.reading.turns import column_turns, system_turns


def _fits(row: Row) -> bool:
    instructed = "instruction" in row and ("output" in row or "response" in row)
    return (instructed or ("input" in row and "output" in row)) and "prompt" not in row


def _read(row: Fields) -> Conversation:
    turns = [*system_turns(row), *instruction_turns(row)]
    turns += column_turns(row, "response" if "response" in row else "output", "assistant")
    return Conversation(tuple(turns), read_tools(row.take("tools"), row), template_options(row))


def instruction_turns(row: Fields) -> list[Turn]:
    """Return the earlier turns, and the instruction with its input as one.

    Raises BadRow.
    """
    earlier = _history(row)
    instruction, context = row.take_text("instruction") or "", cell_text(row.take_first("input", "context")) or ""
    if not isinstance(context, str):
        raise row.bad("input is not a text: for messages, set dataset_columns to {prompt: input, completion: output}")
    return [*earlier, Turn("user", "\n\n".join(text for text in (instruction, context) if text.strip()))]


def _history(row: Fields) -> list[Turn]:
    """Return the earlier turns, which LLaMA-Factory has as pairs of texts.

    Raises BadRow.
    """
    pairs = from_json(row.take("history") or [], row, "history")
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise row.bad("history is not a list of pairs of texts")
    texts = [text for pair in pairs for text in pair]
    if not all(isinstance(text, str) for text in texts):
        raise row.bad("history is not a list of pairs of texts")
    return [Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]


ALPACA = Format(
    "alpaca",
    "Alpaca: `instruction`, `input` or both, and `output`; `system`, `history`, `tools`; and Dolly's `context` and "
    "`response`",
    (
        *("instruction", "input", "output", "context", "response", "system", "system_prompt", "history"),
        *("tools", "chat_template_kwargs", "enable_thinking"),
    ),
    _fits,
    _read,
)
