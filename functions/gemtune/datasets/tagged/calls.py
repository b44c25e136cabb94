"""Calls of tools in tags of a text, as Hermes's and Qwen's rows have them.

A row that defines tools, or has calls elsewhere, goes through the chat template's own calls, so its tags are read as
calls, and what a system message says of them is left out. In any other row the tags are a way of calling that its texts
agree upon, and stay text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gemtune.datasets.conversation import Text, Turn, content_texts
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import read_calls
from gemtune.datasets.refusal import BadRow
from gemtune.datasets.tagged.instructions import (
    CALL,
    RESULT,
    Tools,
    tells_of_tags,
    values_in,
    without_instructions,
)
from gemtune.datasets.tagged.python_literal import NotALiteral


def _tagged(text: str, tag: str) -> tuple[str, list[str]] | None:
    """Return the text before tagged parts, and what is in their tags.

    None if a tag is not closed, or text is between or behind the parts. A pattern would take quadratic time with long
    blanks.
    """
    end = tag.replace("<", "</")
    before, *parts = text.split(tag)
    contents = []
    for part in parts:
        content, closing, behind = part.partition(end)
        if not closing or behind.strip():
            return None
        contents.append(content.strip())
    return None if not contents or end in before else (before, contents)


def _results(text: str) -> list[str] | None:
    """Return the results in a text that has nothing else, or None."""
    tagged = _tagged(text, RESULT)
    return None if tagged is None or tagged[0].strip() else tagged[1]


def read_tagged_calls(
    turns: Sequence[Turn], row: Fields, *, tools: Tools, calls_beside: bool = False, before: Sequence[Turn] = ()
) -> list[Turn]:
    """Return turns whose calls in tags are calls, if the row has tools.

    Results in `<tool_response>` tags become results of tools, and a system message that declares the same tools in tags
    is left without them. Otherwise the tags stay text, which is counted as a field that is not read, and results of
    tools in such tags become turns of the user, as in Qwen's chat template. tools: definitions of the row.
    calls_beside: whether the row has calls that are not in tags. before: turns before these, which were read already.
    Raises BadRow.
    """
    has_tags = any(turn.role == "assistant" and CALL in _text(turn) for turn in turns)
    as_calls = bool(tools) or calls_beside or any(turn.calls for turn in turns)
    if tools or (as_calls and has_tags):
        for turn in before:
            if tells_of_tags(turn):
                without_instructions(turn, tools, row)
        turns = [without_instructions(turn, tools, row) if tells_of_tags(turn) else turn for turn in turns]
    if not has_tags:
        return list(turns)
    if as_calls:
        return [each for number, turn in enumerate(turns, 1) for each in _as_calls(turn, number, row)]
    row.reading.unread[CALL] = None
    return _as_texts(turns)


def _text(turn: Turn) -> str:
    return "".join(content_texts(turn.content))


def _has_media(turn: Turn) -> bool:
    return not isinstance(turn.content, str) and any(not isinstance(part, Text) for part in turn.content)


def _as_calls(turn: Turn, number: int, row: Fields) -> list[Turn]:
    """Return a turn with calls and results instead of tags. Raises BadRow."""
    text = _text(turn)
    if turn.role == "assistant" and CALL in text:
        return [_with_calls(turn, text, number, row)]
    if turn.role in ("user", "tool") and RESULT in text:
        if (results := _results(text)) is not None:
            if _has_media(turn):
                raise row.bad(
                    f"turn {number} has a picture or audio beside the results in {RESULT} tags: write it into a turn "
                    "of its own"
                )
            return [replace(turn.with_content(result), role="tool") for result in results]
        if turn.role == "user":
            raise row.bad(
                f"turn {number} has text beside the results in {RESULT} tags: write it into a turn of its own"
            )
    return [turn]


def _with_calls(turn: Turn, text: str, number: int, row: Fields) -> Turn:
    tagged = _tagged(text, CALL)
    if tagged is None:
        raise row.bad(f"turn {number} has {CALL} tags that are not closed, or text between or behind them")
    if turn.calls:
        raise row.bad(f"turn {number} has calls in {CALL} tags and beside them: keep one")
    before, written = tagged
    calls = [call for each in written for call in read_calls(_decoded(each), row, f"turn {number} {CALL}")]
    return replace(turn, content=before.rstrip(), calls=tuple(calls))


def _decoded(call: str) -> Any:
    """Return a call that Python printed, or any other text as it is."""
    try:
        values = values_in(call)
    except NotALiteral:
        return call
    return values[0] if len(values) == 1 else values


def _as_texts(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns in which results in tags are texts of the user.

    Raises BadRow for a result that is not in tags.
    """
    read: list[Turn] = []
    for number, turn in enumerate(turns, 1):
        if turn.role != "tool":
            read.append(turn)
            continue
        if _results(_text(turn)) is None:
            raise BadRow(
                f"turn {number} is a tool's result, and its call is in {CALL} tags of a text: add the definitions of "
                f"tools to the row, so that the tags are read as calls, or put the result into {RESULT} tags to train "
                "both as text"
            )
        follows = number > 1 and turns[number - 2].role == "tool"
        if follows:
            read[-1] = replace(read[-1], content=f"{_text(read[-1])}\n{_text(turn)}")
        else:
            read.append(Turn("user", _text(turn)))
    return read
