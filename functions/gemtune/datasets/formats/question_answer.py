"""Rows of a question or query, and its answer or response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemtune.datasets.conversation import Conversation, Turn
from gemtune.datasets.reading.fields import Fields, unicode_text
from gemtune.datasets.reading.shape import Format, Row
from gemtune.datasets.reading.tools import read_tools, structured, template_options
from gemtune.datasets.reading.turns import column_turns, system_turns

# OpenOrca has a question with its response, MetaMath a query.
QUESTIONS, ANSWERS = ("question", "query"), ("answer", "response")
# Column of SQuAD's answers, an object with the lists `text` and `answer_start`.
SPANS = "answers"


def _fits(row: Row) -> bool:
    answered = any(name in row for name in ANSWERS) or _has_spans(row.get(SPANS))
    return any(name in row for name in QUESTIONS) and answered


def _has_spans(value: Any) -> bool:
    value = structured(value)
    return isinstance(value, Mapping) and "text" in value


def _read(row: Fields) -> Conversation:
    turns = [*system_turns(row), *question_turns(row, row.only(*QUESTIONS))]
    if _has_spans(row.peek(SPANS)):
        turns.append(_span(row))
    else:
        turns += column_turns(row, row.only(*ANSWERS), "assistant")
    return Conversation(tuple(turns), read_tools(row.take("tools"), row), template_options(row))


def question_turns(row: Fields, column: str) -> list[Turn]:
    """Return the turns of a question. Raises BadRow.

    A context beside it is in front of the question, with a blank line between.
    """
    turns, context = column_turns(row, column, "user"), row.take_text("context")
    if context is None or not context.strip():
        return turns
    if len(turns) != 1 or not isinstance(turns[0].content, str):
        raise row.bad(f"context stands beside messages in {column}: write it into one of them")
    return [Turn("user", f"{context}\n\n{turns[0].content}")]


def _span(row: Fields) -> Turn:
    """Return the first of SQuAD's answers, which say the same.

    Its place and the others are counted as not read. Raises BadRow.
    """
    spans = row.within(structured(row.take(SPANS)), SPANS, SPANS)
    texts = structured(spans.take("text"))
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise spans.bad("text is not a list of texts")
    if not texts:
        raise spans.bad(
            "the question has no answer in its context: write what to say into answer, or leave the row out"
        )
    spans.leave("answer_start")
    spans.close()
    if len({*texts}) > 1:
        row.reading.unread[f"{SPANS}.text after the first"] = None
    return Turn("assistant", unicode_text(texts[0]))


QUESTION_ANSWER = Format(
    "question_answer",
    "`question` or `query`, with `answer` or `response`, or with SQuAD's `answers`; `context`, `system`, `tools`",
    (
        *(*QUESTIONS, *ANSWERS, SPANS, "context", "system", "system_prompt", "tools"),
        *("chat_template_kwargs", "enable_thinking"),
    ),
    _fits,
    _read,
)
