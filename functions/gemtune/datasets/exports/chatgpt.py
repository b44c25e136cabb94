"""ChatGPT's export: a tree of messages; its current node is the last one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gemtune.datasets.conversation import Conversation, Role, Turn
from gemtune.datasets.exports.details import leave_details
from gemtune.datasets.reading.fields import Fields, shown, unicode_text
from gemtune.datasets.reading.flags import read_flag
from gemtune.datasets.reading.shape import Format, Row
from gemtune.datasets.reading.tools import structured
from gemtune.datasets.reading.turns import role_of

ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
# Name of answers and questions that were replaced, among the fields that are not read.
OTHER_BRANCHES = "other branches of mapping"


def _fits(row: Row) -> bool:
    return isinstance(structured(row.get("mapping")), Mapping) and "current_node" in row


def _read(row: Fields) -> Conversation:
    nodes, current = structured(row.take("mapping")), row.take("current_node")
    if not isinstance(nodes, Mapping):
        raise row.bad("mapping is not an object with the nodes of a conversation")
    path = list(_path(nodes, current, row))
    messages = [node["message"] for node in reversed(path) if node.get("message") is not None]
    turns = [turn for number, each in enumerate(messages, 1) for turn in _turns(each, number, row)]
    if sum(isinstance(node, Mapping) and node.get("message") is not None for node in nodes.values()) > len(messages):
        row.reading.unread[OTHER_BRANCHES] = None
    leave_details(row)
    return Conversation(tuple(turns))


def _path(nodes: Mapping[str, Any], current: Any, row: Fields) -> Iterator[Mapping[str, Any]]:
    """Yield the nodes from the current one to the root. Raises BadRow."""
    for _ in range(len(nodes) + 1):
        node = nodes.get(current) if isinstance(current, str) else None
        if not isinstance(node, Mapping):
            raise row.bad("mapping has no node of the name that current_node or a parent has")
        yield node
        current = node.get("parent")
        if current is None:
            return
    raise row.bad("the nodes of mapping form a circle")


def _turns(message: Any, number: int, row: Fields) -> list[Turn]:
    """Return a message as a turn; an empty one of the system is none.

    Raises BadRow.
    """
    fields = row.within(message, "mapping", f"message {number}")
    author = fields.within(fields.take("author"), "author")
    content = fields.within(fields.take("content"), "content")
    kind, parts, recipient = content.take("content_type"), content.take("parts"), fields.take("recipient")
    name = author.take("role")
    if name == "tool" or recipient not in (None, "all"):
        raise fields.bad("it is of one of ChatGPT's own tools: remove such conversations")
    role = role_of(name, ROLES, fields)
    trained = read_flag(fields, role)
    if kind != "text" or not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise fields.bad(f"its content is {shown(kind)}, which is not only text: remove such conversations")
    metadata = fields.peek("metadata")
    if isinstance(metadata, Mapping) and metadata.get("attachments"):
        raise fields.bad("it has attachments, whose content is not in its text: remove such conversations")
    for part in (author, content, fields):
        leave_details(part, harmless=("name",))
        part.close()
    text = "\n".join(unicode_text(part) for part in parts)
    return [] if role == "system" and not text.strip() else [Turn(role, text, trained=trained)]


CHATGPT = Format(
    "chatgpt",
    "ChatGPT's export: `mapping` with the messages as a tree, from whose `current_node` the conversation is read "
    "backwards; other branches are not read",
    ("mapping", "current_node"),
    _fits,
    _read,
)
