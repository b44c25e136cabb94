"""Rows of exchanges: what the user says with what the assistant answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.reading.content import read_content
from gemtune.datasets.reading.fields import Fields, unicode_text
from gemtune.datasets.reading.flags import read_flag
from gemtune.datasets.reading.shape import Format, Row, first_turn
from gemtune.datasets.reading.tools import read_tools, structured, template_options
from gemtune.datasets.reading.turns import is_text, message_list, system_turns

# Columns of exchanges, and the names of both sides: XTuner's and Capybara's, the Cauldron's, Firefly's.
COLUMNS = ("conversation", "texts")
USERS, ASSISTANTS = ("input", "user", "human"), ("output", "assistant", "bot")
# Column of texts, the first one the user's, as in LIMA's rows.
TEXTS = "conversations"


def _fits(row: Row) -> bool:
    return any(_is_exchange(first_turn(row.get(column))) for column in COLUMNS) or _are_texts(row.get(TEXTS))


def _is_exchange(value: Mapping[str, Any]) -> bool:
    return any(name in value for name in USERS) and any(name in value for name in ASSISTANTS)


def _are_texts(value: Any) -> bool:
    texts = structured(value)
    return isinstance(texts, list) and bool(texts) and all(is_text(text, or_message=True) for text in texts)


def _read(row: Fields) -> Conversation:
    turns = system_turns(row)
    if TEXTS in row:
        texts = structured(row.take(TEXTS))
        if not _are_texts(texts):
            raise row.bad(f"{TEXTS} is not a list of texts")
        turns += [Turn("assistant" if index % 2 else "user", unicode_text(text)) for index, text in enumerate(texts)]
    else:
        column = next((name for name in COLUMNS if name in row), COLUMNS[0])
        for number, each in enumerate(message_list(row.take(column), row, column), 1):
            turns += _exchange(row.within(each, column, f"exchange {number}"))
    return Conversation(tuple(turns), read_tools(row.take("tools"), row), template_options(row))


def _exchange(fields: Fields) -> list[Turn]:
    """Return the turns of one exchange, with a system turn if it has one.

    Raises BadRow.
    """
    system = system_turns(fields)
    query, answer = fields.take_first(*USERS), fields.take_first(*ASSISTANTS)
    if query is None or answer is None:
        raise fields.bad(f"it needs {' or '.join(USERS)}, and {' or '.join(ASSISTANTS)}")
    trained = read_flag(fields, "assistant")
    question = Turn("user", read_content(query, "user", fields, "input"))
    turn = Turn("assistant", read_content(answer, "assistant", fields, "output"), trained=trained)
    fields.close()
    return [*system, question, turn]


EXCHANGES = Format(
    "exchanges",
    "Exchanges: `conversation` of {input, output, system}, as XTuner and Capybara have it, or of {human, assistant}; "
    "`texts` of {user, assistant}, as in the Cauldron; `conversations` of texts, in turn the user's and the "
    "assistant's, as in LIMA",
    (*COLUMNS, TEXTS, "system", "system_prompt", "tools", "chat_template_kwargs", "enable_thinking"),
    _fits,
    _read,
)
