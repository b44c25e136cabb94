"""Glaive's rows: a transcript, and functions in the system message."""

from __future__ import annotations

import re
from typing import Any

from gemtune.datasets.conversation import Conversation, ToolCall, Turn
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.shape import Format, Row
from gemtune.datasets.reading.tools import read_calls, read_tools
from gemtune.untrusted import Unreadable, read_json

CALL, END = "<functioncall>", "<|endoftext|>"
# Name of the functions that the chat template tells of instead, among the fields that are not read.
LEFT_OUT = "functions of the system message"
_SPEAKER = re.compile(r"^[ \t]*(USER|ASSISTANT|FUNCTION RESPONSE):", re.MULTILINE)
_SYSTEM = re.compile(r"\s*+SYSTEM:")
# The sentence that tells of the functions, behind which their definitions follow, one object after the other.
_FUNCTIONS = re.compile(r" (?:with|who has) access to the following functions\b[^{]*")
_BETWEEN = re.compile(r"\}(?=[ \t]*\r?\n)\s*+\{")
# The arguments are JSON in single quotes, or an object.
_CALL = re.compile(
    r'\{\s*+"name"\s*+:\s*+(?P<name>"(?:[^"\\]|\\.)*+")\s*+(?:,\s*+"arguments"\s*+:(?P<arguments>.*))?\}', re.DOTALL
)


def _fits(row: Row) -> bool:
    return is_transcript(row.get("chat"))


def is_transcript(value: Any) -> bool:
    """Return whether a value is a text of USER: and ASSISTANT:."""
    return isinstance(value, str) and {"USER", "ASSISTANT"} <= {*_SPEAKER.findall(value)}


def _read(row: Fields) -> Conversation:
    as_text = "tools" in row.reading.ignored
    text = row.take_text("chat") or ""
    begin, *pieces = _SPEAKER.split(text)
    if begin.strip() or not pieces:
        raise row.bad("chat does not begin with USER:")
    system, tools = _system(row.take_text("system") or "", row, as_text=as_text)
    turns = [_turn(speaker, words, row) for speaker, words in zip(pieces[::2], pieces[1::2], strict=True)]
    own_tools = read_tools(row.take("tools"), row)
    if tools and own_tools:
        raise row.bad("the system message and a column tools both have functions: keep one")
    if as_text and CALL in text:
        row.reading.unread[CALL] = None
    return Conversation((*([Turn("system", system)] if system else []), *turns), tools or own_tools)


def _system(text: str, row: Fields, *, as_text: bool) -> tuple[str, tuple[dict[str, Any], ...]]:
    """Return a system message without its functions, and these as tools.

    Raises BadRow.
    """
    text = text[begins.end() :] if (begins := _SYSTEM.match(text)) is not None else text
    text = text.strip()
    sentence = _FUNCTIONS.search(text)
    if sentence is None or as_text:
        return text, ()
    definitions = _BETWEEN.sub("},{", text[sentence.end() :].strip())
    try:
        tools = read_tools(read_json(f"[{definitions}]", max_bytes=len(definitions.encode()) + 2), row, "system")
    except Unreadable as error:
        raise row.bad(
            f"the functions in the system message cannot be read: {error.message}; correct them, or add "
            "{tools: null} to dataset_columns to train them and their calls as text"
        ) from None
    row.reading.unread[LEFT_OUT] = None
    return f"{text[: sentence.start()]}.", tools


def _turn(speaker: str, words: str, row: Fields) -> Turn:
    """Return the words of a speaker as a turn. Raises BadRow."""
    words = words.strip()
    as_text = "tools" in row.reading.ignored
    match speaker:
        case "USER":
            return Turn("user", words)
        case "FUNCTION RESPONSE":
            return Turn("user", f"{speaker}: {words}") if as_text else Turn("tool", words)
    words = words.removesuffix(END).rstrip()
    if CALL not in words or as_text:
        return Turn("assistant", words)
    before, _, written = words.partition(CALL)
    return Turn("assistant", before.rstrip(), calls=(_call(written.strip(), row),))


def _call(written: str, row: Fields) -> ToolCall:
    """Return a call of a function. Raises BadRow."""
    call = _CALL.fullmatch(written)
    if call is None:
        raise row.bad(f"a call behind {CALL} is not {{name, arguments}}")
    try:
        name = read_json(call["name"], max_bytes=len(written.encode()))
        arguments = (call["arguments"] or "").strip()
        if len(arguments) > 1 and arguments[0] == arguments[-1] == "'":
            arguments = arguments[1:-1].replace("\\'", "'")
        value = read_json(arguments, max_bytes=len(written.encode())) if arguments else {}
    except Unreadable as error:
        raise row.bad(f"a call behind {CALL} cannot be read: {error.message}") from None
    (read,) = read_calls({"name": name, "arguments": value}, row, "chat")
    return read


GLAIVE = Format(
    "glaive",
    "Glaive's function calling: `chat`, a transcript of `USER:`, `ASSISTANT:` and `FUNCTION RESPONSE:`, with calls "
    "behind `<functioncall>`, and `system` with the functions",
    ("chat", "system", "tools"),
    _fits,
    _read,
)
