"""System messages that tell of tools in tags, as in Hermes's rows.

A row that also has definitions of tools declares them twice, and tells the model to write calls in another way than the
chat template does. If both declare the same functions, the sentences about the tags are left out, and the chat template
tells of the tools.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gemtune.datasets.conversation import Content, Text, Turn, content_texts
from gemtune.datasets.reading.fields import Fields, Reading
from gemtune.datasets.reading.tools import read_tools
from gemtune.datasets.refusal import BadRow
from gemtune.datasets.tagged.python_literal import NotALiteral, read_literal
from gemtune.untrusted import Unreadable, read_json

CALL, RESULT, TOOLS = "<tool_call>", "<tool_response>", "<tools>"
# Name of what is left out, among the fields that are not read.
LEFT_OUT = f"{TOOLS} of the system message"
_TAG = re.compile(r"<(/?)(tools|tool_call|tool_response)>")
# Ends of sentences: a point and a blank, or the end of a line, with its colon. It takes linear time with long blanks.
_END = re.compile(r"(?<=[.!?])[ \t]+|(?P<colon>:[ \t]*)?\n\s*")
# Beginnings that continue a line which ends in a colon, such as a tag, a JSON Schema or a block of code.
_CONTINUES = ("<", "{", "[", "`")
# Tags with this between them hold definitions, calls or an example; others are part of what a sentence says.
_STRUCTURED = re.compile(r"[{\[\n]")
_BEHIND = re.compile(r"[.!?,;:]?\s*")
_NUMBER = re.compile(r"\s*\d{1,3}\.")
# Keys of a JSON Schema of calls, as in "Use the following schema for each tool call".
_CALL_SCHEMA = tuple(re.compile(rf"""["']{key}["']\s*:""") for key in ("properties", "name", "arguments"))
Tools = Sequence[Mapping[str, Any]]


def tells_of_tags(turn: Turn) -> bool:
    """Return whether a turn is a system message about tags of tools or calls."""
    text = "".join(content_texts(turn.content))
    return turn.role == "system" and (CALL in text or TOOLS in text)


def without_instructions(turn: Turn, tools: Tools, row: Fields) -> Turn:
    """Return a system message without its sentences about tags.

    tools: definitions of the row, which have to be those in the message. Raises BadRow if they are not.
    """
    declared = [each for text in content_texts(turn.content) for each in _declared(text, row)]
    if not declared or not tools:
        raise row.bad(
            f"the system message tells how to write calls in {CALL} tags, and the row has "
            f"{'tools' if tools else 'calls beside them'}, which the chat template tells of in its own way: remove "
            "that from the system message, or add {tools: null} to dataset_columns to train the tags as text"
        )
    difference = _difference(declared, tools)
    if difference:
        raise row.bad(
            f"the system message declares other tools in {TOOLS} tags than the row's tools: {difference}; make both "
            "the same, remove one of them, or add {tools: null} to dataset_columns to train the tags as text"
        )
    row.reading.unread[LEFT_OUT] = None
    return turn.with_content(_left(turn.content))


def _left(content: Content) -> Content:
    if isinstance(content, str):
        return _without_sentences(content)
    parts = (Text(_without_sentences(part.text)) if isinstance(part, Text) else part for part in content)
    return tuple(part for part in parts if not isinstance(part, Text) or part.text)


def values_in(text: str) -> list[Any]:
    """Return the values that a text has: one, or one per line.

    They are JSON, or as Python prints them. Raises NotALiteral.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    for pieces in ([text], lines):
        for read in (_json, read_literal):
            try:
                return [read(piece) for piece in pieces]
            except (Unreadable, NotALiteral):
                continue
    raise NotALiteral("neither JSON nor a value as Python prints it")


def _json(text: str) -> Any:
    return read_json(text, max_bytes=len(text.encode()))


def _blocks(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (begin, end, content) of tags and what is between them.

    A tag that is only mentioned, and not closed before the next one of its kind, is none.
    """
    opened: dict[str, re.Match[str]] = {}
    for tag in _TAG.finditer(text):
        closes, name = tag.groups()
        if not closes:
            opened[name] = tag
        elif name in opened:
            begin = opened.pop(name)
            yield begin.start(), tag.end(), text[begin.end() : tag.start()]


def _declared(text: str, row: Fields) -> list[dict[str, Any]]:
    """Return the definitions of tools in the tags of a text. Raises BadRow."""
    tools: list[dict[str, Any]] = []
    fields = Fields({}, Reading(row.reading.options), place=row.place)
    for begin, _, content in _blocks(text):
        if not content.strip() or not text.startswith(TOOLS, begin):
            continue
        try:
            values = values_in(content.strip())
        except NotALiteral as problem:
            raise row.bad(f"what is in the {TOOLS} tags of the system message is {problem}") from None
        for value in values:
            tools += read_tools(value, fields, TOOLS)
    return tools


def _difference(declared: Tools, tools: Tools) -> str:
    """Return in words how two declarations differ, or nothing."""
    tagged, own = _by_name(declared), _by_name(tools)
    for name in (*tagged, *own):
        if name not in own or name not in tagged:
            return f"{name[:60]!r} is only in the {'tags' if name in tagged else 'tools'}"
        for key in ("parameters", "description", "response"):
            if _meaning(tagged[name].get(key)) != _meaning(own[name].get(key)):
                return f"{name[:60]!r} has another {key}"
    return ""


def _by_name(tools: Tools) -> dict[str, Mapping[str, Any]]:
    """Return functions by their names.

    Raises BadRow for two of one name that differ.
    """
    functions: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = tool["function"]
        if functions.setdefault(function["name"], function) != function:
            raise BadRow(f"two tools are called {function['name'][:60]!r}")
    return functions


def _meaning(value: Any, key: str = "") -> Any:
    """Return a schema in one of the ways to write it.

    Blanks around texts, empty values and the order of required parameters say nothing.
    """
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, Mapping):
        inner = {name: _meaning(each, name) for name, each in value.items()}
        return {name: each for name, each in inner.items() if each is not None} or None
    if isinstance(value, list):
        items = [_meaning(each) for each in value]
        return (sorted(items, key=str) if key == "required" else items) or None
    return value


def _without_sentences(text: str) -> str:
    """Return a text without its sentences about tags.

    Sentences with the JSON Schema of calls are about tags, too.
    """
    others: list[str] = []
    for sentence in _sentences(text):
        if not _TAG.search(sentence) and not all(key.search(sentence) for key in _CALL_SCHEMA):
            others.append(sentence)
        elif others:  # the larger of both gaps stays
            before, after = others[-1].rstrip(), sentence[len(sentence.rstrip()) :]
            others[-1] = before + max(others[-1][len(before) :], after, key=lambda gap: (gap.count("\n"), len(gap)))
    return "".join(others).strip()


def _sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text, each with the blanks behind it.

    Tags with something between them belong to the sentence that they are in, and end it.
    """
    begin = 0
    for end in _ends(text):
        sentence = text[begin:end]
        if not _NUMBER.fullmatch(sentence.rstrip()):
            yield sentence
            begin = end
    yield text[begin:]


def _ends(text: str) -> list[int]:
    """Return the places behind the ends of sentences, in order."""
    spans = _merged((begin, end) for begin, end, _ in _blocks(text))
    ends = {
        each.end()
        for each in _END.finditer(text)
        if each["colon"] is None or not text.startswith(_CONTINUES, each.end())
    }
    ends |= {
        behind.end()
        for _, end, content in _blocks(text)
        if _STRUCTURED.search(content) and (behind := _BEHIND.match(text, end))
    }
    begins = [begin for begin, _ in spans]

    def is_inside(place: int) -> bool:
        index = bisect_left(begins, place) - 1
        return index >= 0 and place < spans[index][1]

    return sorted(place for place in ends if not is_inside(place))


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans of a text, sorted, those that overlap as one."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
