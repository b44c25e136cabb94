"""Claude's export: messages with a sender, a text and its parts."""

from __future__ import annotations

from collections.abc import Mapping

from gemtune.datasets.conversation import Conversation, Role, Turn
from gemtune.datasets.exports.details import leave_details
from gemtune.datasets.reading.fields import Fields, shown
from gemtune.datasets.reading.shape import Format, Row
from gemtune.datasets.reading.turns import message_list, role_of

ROLES: Mapping[str, Role] = {"human": "user", "assistant": "assistant"}


def _fits(row: Row) -> bool:
    return "chat_messages" in row


def _read(row: Fields) -> Conversation:
    messages = message_list(row.take("chat_messages"), row, "chat_messages")
    turns = [_turn(row.within(each, "chat_messages", f"message {number}")) for number, each in enumerate(messages, 1)]
    leave_details(row, harmless=("name",))
    return Conversation(tuple(turns))


def _turn(fields: Fields) -> Turn:
    """Return a message as a turn. Raises BadRow."""
    role = role_of(fields.take("sender"), ROLES, fields)
    for name in ("attachments", "files"):
        if fields.take(name):
            raise fields.bad(f"it has {name}, whose content is not in its text: remove such conversations")
    text, parts = fields.take_text("text"), fields.take("content")
    thoughts: list[str] = []
    if parts is not None and not isinstance(parts, list):
        raise fields.bad("its content is not a list of parts")
    if parts:
        texts: list[str] = []
        for part in parts:
            inner = fields.within(part, "content")
            kind = inner.take("type")
            words = inner.take_text("thinking" if kind == "thinking" else "text")
            if kind not in ("text", "thinking") or words is None:
                raise fields.bad(f"a part is {shown(kind)}, which is not text: remove such conversations")
            (thoughts if kind == "thinking" else texts).append(words)
            leave_details(inner)
            inner.close()
        text = "\n\n".join(texts)
    if text is None:
        raise fields.bad("it has neither text nor content")
    leave_details(fields)
    fields.close()
    return Turn(role, text, "\n\n".join(thoughts))


CLAUDE = Format(
    "claude",
    "Claude's export: `chat_messages` of {sender, text, content}",
    ("chat_messages",),
    _fits,
    _read,
)
