"""Calls of tools in tags of a text, as Hermes's and Qwen's rows have them.

A row that defines tools, or has calls elsewhere, goes through the chat template's own calls, so its tags are read as
calls. In any other row the tags are a way of calling that its texts agree upon, and stay text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gemtune.datasets.conversation import Image, Turn, content_texts
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.tools import read_calls
from gemtune.datasets.refusal import BadRow

CALL, RESULT, TOOLS = "<tool_call>", "<tool_response>", "<tools>"


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
    turns: Sequence[Turn], row: Fields, *, has_tools: bool, before: Sequence[Turn] = ()
) -> list[Turn]:
    """Return turns whose calls in tags are calls, if the row has tools.

    Results in `<tool_response>` tags become results of tools. Otherwise the tags stay text, which is counted as a field
    that is not read, and results of tools in such tags become turns of the user, as in Qwen's chat template. has_tools:
    whether the row defines tools. before: turns before these, which were read already. Raises BadRow.
    """
    if not any(turn.role == "assistant" and CALL in _text(turn) for turn in turns):
        return list(turns)
    if has_tools or any(turn.calls for turn in turns):
        _check_instructions((*before, *turns), row)
        return [each for number, turn in enumerate(turns, 1) for each in _as_calls(turn, number, row)]
    row.reading.unread[CALL] = None
    return _as_texts(turns)


def _text(turn: Turn) -> str:
    return "".join(content_texts(turn.content))


def _check_instructions(turns: Sequence[Turn], row: Fields) -> None:
    """Raise BadRow if a system message tells how to write calls in tags.

    turns: of a row with tools, whose tags are read as calls.
    """
    for text in (_text(turn) for turn in turns if turn.role == "system"):
        if CALL in text or TOOLS in text:
            raise row.bad(
                f"the system message tells how to write calls in {CALL} tags, and the row has tools, which the chat "
                "template tells of in its own way: remove that from the system message, or add {tools: null} "
                "to dataset_columns to train the tags as text"
            )


def _has_picture(turn: Turn) -> bool:
    return not isinstance(turn.content, str) and any(isinstance(part, Image) for part in turn.content)


def _as_calls(turn: Turn, number: int, row: Fields) -> list[Turn]:
    """Return a turn with calls and results instead of tags. Raises BadRow."""
    text = _text(turn)
    if turn.role == "assistant" and CALL in text:
        return [_with_calls(turn, text, number, row)]
    if turn.role in ("user", "tool") and RESULT in text:
        if (results := _results(text)) is not None:
            if _has_picture(turn):
                raise row.bad(
                    f"turn {number} has a picture beside the results in {RESULT} tags: write it into a turn of its own"
                )
            return [replace(turn, role="tool", content=result) for result in results]
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
    calls = [call for each in written for call in read_calls(each, row, f"turn {number} {CALL}")]
    return replace(turn, content=before.rstrip(), calls=tuple(calls))


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
