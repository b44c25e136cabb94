"""Calls of tools in tags of a text, as Hermes's and Qwen's rows have them.

A row that defines tools, or has calls elsewhere, goes through the chat template's own calls, so its tags are read as
calls. In any other row the tags are a way of calling that its texts agree upon, and stay text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from gemtune.datasets.conversation import Turn, content_texts
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import read_calls
from gemtune.datasets.refusal import BadRow

CALL, RESULT, TOOLS = "<tool_call>", "<tool_response>", "<tools>"


def _tagged(name: str) -> str:
    """Return a pattern of a tagged text without a tag of that name in it."""
    return rf"<{name}>(?:(?!</?{name}>).)*</{name}>"


_TEXT_AND_CALLS = re.compile(
    rf"(?P<text>(?:(?!</?tool_call>).)*)(?P<calls>(?:\s*{_tagged('tool_call')})+)\s*", re.DOTALL
)
_ONE_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESULTS = re.compile(rf"\s*(?:{_tagged('tool_response')}\s*)+", re.DOTALL)
_ONE_RESULT = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)


def read_tagged_calls(turns: Sequence[Turn], row: Fields, *, has_tools: bool) -> list[Turn]:
    """Return turns whose calls in tags are calls, if the row has tools.

    Results in `<tool_response>` tags become results of tools. Otherwise the tags stay text, which is counted as a field
    that is not read, and results of tools in such tags become turns of the user, as in Qwen's chat template. has_tools:
    whether the row defines tools. Raises BadRow.
    """
    if not any(turn.role == "assistant" and CALL in _text(turn) for turn in turns):
        return list(turns)
    if has_tools or any(turn.calls for turn in turns):
        return [each for number, turn in enumerate(turns, 1) for each in _as_calls(turn, number, row)]
    row.reading.unread[CALL] = None
    return _as_texts(turns)


def _text(turn: Turn) -> str:
    return "".join(content_texts(turn.content))


def _as_calls(turn: Turn, number: int, row: Fields) -> list[Turn]:
    """Return a turn with calls and results instead of tags. Raises BadRow."""
    text = _text(turn)
    if turn.role == "system" and (CALL in text or TOOLS in text):
        raise row.bad(
            f"the system message tells how to write calls in {CALL} tags, and the row has tools, which the chat "
            "template tells of in its own way: remove that from the system message, or add {tools: null} "
            "to dataset_columns to train the tags as text"
        )
    if turn.role == "assistant" and CALL in text:
        return [_with_calls(turn, text, number, row)]
    if turn.role in ("user", "tool") and RESULT in text:
        if _RESULTS.fullmatch(text):
            return [replace(turn, role="tool", content=result) for result in _ONE_RESULT.findall(text)]
        if turn.role == "user":
            raise row.bad(
                f"turn {number} has text beside the results in {RESULT} tags: write it into a turn of its own"
            )
    return [turn]


def _with_calls(turn: Turn, text: str, number: int, row: Fields) -> Turn:
    matched = _TEXT_AND_CALLS.fullmatch(text)
    if matched is None:
        raise row.bad(f"turn {number} has {CALL} tags that are not closed, or text between or behind them")
    if turn.calls:
        raise row.bad(f"turn {number} has calls in {CALL} tags and beside them: keep one")
    calls = [
        call
        for each in _ONE_CALL.findall(matched["calls"])
        for call in read_calls(each.strip(), row, f"turn {number} {CALL}")
    ]
    return replace(turn, content=matched["text"].rstrip(), calls=tuple(calls))


def _as_texts(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns in which results in tags are texts of the user.

    Raises BadRow for a result that is not in tags.
    """
    read: list[Turn] = []
    for number, turn in enumerate(turns, 1):
        if turn.role != "tool":
            read.append(turn)
            continue
        if not _RESULTS.fullmatch(_text(turn)):
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
