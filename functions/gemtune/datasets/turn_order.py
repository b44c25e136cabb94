"""Order of turns: which roles may follow which, and how turns are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gemtune.datasets.conversation import Content, Conversation, Part, Text, ToolCall, Turn
from gemtune.datasets.refusal import BadRow
from gemtune.datasets.row_options import SameRole

# Limit of a row's text, in bytes of UTF-8.
MAX_TEXT_BYTES = 1024 * 1024


def checked(conversation: Conversation, *, same_role: SameRole = "refuse") -> Conversation:
    """Return a conversation whose turns are in an order that a model can meet.

    An optional system turn comes first, then user and assistant in turn. An empty system turn is left out. The results
    of a call follow it, one per tool that it calls. Raises BadRow.
    """
    turns = conversation.turns
    if len(turns) > 1 and turns[0].role == "system" and turns[0].is_empty:
        turns = turns[1:]
    if same_role == "merge":
        turns = _merged(turns)
    for number, turn in enumerate(turns, 1):
        if turn.is_empty and turn.role != "tool":
            raise BadRow("an empty message" if len(turns) == 1 else f"turn {number} is an empty message")
    try:
        size = len("".join(conversation.texts()).encode())
    except UnicodeEncodeError:
        raise BadRow("broken Unicode (half of a surrogate pair)") from None
    if size > MAX_TEXT_BYTES:
        raise BadRow(f"longer than {MAX_TEXT_BYTES} bytes")
    _check_order(turns)
    has_tools = any(turn.role == "tool" or turn.calls for turn in turns)
    return conversation.with_turns(_with_names_of_tools(turns) if has_tools else turns)


def _check_order(turns: Sequence[Turn]) -> None:
    """Raise BadRow where a role may not follow the one before it."""
    before = "start"
    for number, turn in enumerate(turns, 1):
        if turn.role not in _EXPECTED[before]:
            raise BadRow(_order_problem(before, turn.role, number))
        before = "call" if turn.calls else turn.role


# By role, which roles may come next. `call` is a turn of the assistant that calls tools.
_EXPECTED = {
    "start": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant", "user"),
}


def _order_problem(before: str, role: str, number: int) -> str:
    expected = " or ".join(dict.fromkeys(_EXPECTED[before]))
    if role == "tool":
        return f"turn {number} is a tool's result, and the turn before calls no tool: write the call into tool_calls"
    if before == "call":
        return f"turn {number - 1} calls a tool, and no result follows it: add it, or end the row with the call"
    if role == "system":
        return f"turn {number} is a system message; only the first turn can be one"
    hint = "; set same_role to merge to join them" if role == before else ""
    if role == "assistant" and before in ("start", "system"):
        hint = ": put a message of the user in front of the assistant's first one"
    return f"the roles do not alternate: {role} instead of {expected}{hint}"


def _merged(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return the turns with those of one role in a row joined by a blank line.

    Results of tools stay apart, and so does what the assistant says behind its own call. Raises BadRow if one of two
    joined turns is trained and the other is not.
    """
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else None
        if last is None or last.role != turn.role or turn.role == "tool" or last.calls:
            merged.append(turn)
            continue
        if turn.thinking:
            raise BadRow("two turns of the assistant in a row cannot be merged: the second one begins with thinking")
        if last.trained is not turn.trained and False in (last.trained, turn.trained):
            raise BadRow(f"two turns of the {turn.role} in a row, of which only one is trained, cannot be merged")
        merged[-1] = replace(
            last,
            content=_joined(last.content, turn.content),
            calls=turn.calls,
            trained=last.trained if turn.trained is None else turn.trained,
        )
    return tuple(merged)


def _joined(first: Content, second: Content) -> Content:
    """Join two contents with a blank line."""
    if not second or not first:
        return first or second
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    before, after = _parts(first), _parts(second)
    left, right = before[-1], after[0]
    # Templates strip each part, so the blank line is inside a part, not at the end of one.
    if isinstance(left, Text) and isinstance(right, Text) and left.languages == right.languages:
        return (*before[:-1], replace(left, text=f"{left.text}\n\n{right.text}"), *after[1:])
    return (*before, *after)


def _parts(content: Content) -> tuple[Part, ...]:
    return (Text(content),) if isinstance(content, str) else content


def _with_names_of_tools(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns, in which each result has the name of its tool.

    Raises BadRow for a result that answers no call, and for a call without a result before the conversation goes on.
    """
    named: list[Turn] = []
    waiting: list[ToolCall] = []
    for number, turn in enumerate(turns, 1):
        if turn.role != "tool":
            if waiting and named[-1].role == "tool":
                raise BadRow(f"turn {number} comes before the result of the call of {waiting[0].name[:60]!r}")
            waiting = list(turn.calls)
            named.append(turn)
            continue
        call = _call_of(turn, waiting, number)
        waiting.remove(call)
        named.append(replace(turn, tool_name=call.name))
    return named


def _call_of(result: Turn, waiting: Sequence[ToolCall], number: int) -> ToolCall:
    """Return the call that a result answers.

    It is found by its id, else by the tool's name, else it is the first one. Raises BadRow if there is none.
    """
    candidates = list(waiting)
    if result.call_id is not None and any(call.call_id is not None for call in candidates):
        candidates = [call for call in candidates if call.call_id == result.call_id]
    if result.tool_name is not None:
        candidates = [call for call in candidates if call.name == result.tool_name]
    if not candidates:
        raise BadRow(f"turn {number} is a tool's result, and no call before it has its id and name")
    return candidates[0]
