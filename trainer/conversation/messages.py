"""Checks a row and brings its two shapes into one: a list of messages with plain text or, where the model sees, with
lists of texts and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainer.conversation.dataset_files import MAX_ROW_BYTES, Refused

# role and content; content is a text, or (of a vision job) a list of {type: text, text} and {type: image, image}.
Message = dict[str, Any]
Messages = list[Message]


class BadRow(Exception):
    """Says in a few words what is wrong with a row."""


def conversation(row: dict[str, Any], *, with_pictures: bool = False) -> Messages | Refused:
    """`{"messages"}` or `{"prompt", "completion"}` as messages: an optional system message first, then user and
    assistant in turn, at least one of them the assistant's. Plain strings become one turn each. with_pictures: users
    may show pictures, which are still unchecked."""
    try:
        messages = checked_messages(_messages(row), with_pictures=with_pictures)
        if not any(message["role"] == "assistant" for message in messages):
            raise BadRow("no turn of the assistant")
    except BadRow as bad:
        return Refused(str(bad))
    return messages


def texts_in(messages: Messages) -> Iterator[str]:
    for message in messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def pictures_in(messages: Messages) -> list[Any]:
    """What the rows say of each picture, in order."""
    lists = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [part["image"] for content in lists for part in content if part["type"] == "image"]


def _messages(row: dict[str, Any]) -> list[tuple[Any, Any]]:
    """(role, content) of each message, still unchecked."""
    if "messages" in row:
        return _turns(row["messages"], "messages")
    if "prompt" in row and "completion" in row:
        return [
            *column_turns(row["prompt"], "user", "prompt"),
            *column_turns(row["completion"], "assistant", "completion"),
        ]
    if {"chosen", "rejected"} & set(row) or {"prompt", "answer"} <= set(row):
        raise BadRow("a row for RL; this job trains on messages, or on prompt and completion")
    raise BadRow(f"needs messages, or prompt and completion; has {names_in(row)}")


def names_in(row: dict[str, Any]) -> str:
    """The names of a row's fields, for its refusal."""
    found = ", ".join(sorted(map(str, row)))[:100] or "nothing"
    return found.encode(errors="backslashreplace").decode()  # a name can be broken Unicode, a report cannot


def column_turns(value: Any, role: str, column: str) -> list[tuple[Any, Any]]:
    """(role, content) of each message of a column: a list of messages, or the text of one."""
    return [(role, value)] if isinstance(value, str) else _turns(value, column)


def _turns(value: Any, column: str) -> list[tuple[Any, Any]]:
    if not isinstance(value, list) or not value:
        raise BadRow(f"{column} is no list of messages")
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise BadRow("a message needs role and content")
    return [(message["role"], message["content"]) for message in value]


def checked_messages(turns: list[tuple[Any, Any]], *, with_pictures: bool = False) -> Messages:
    """Messages, an optional system message first, then user and assistant in turn. Raises BadRow."""
    messages: Messages = []
    for role, content in turns:
        role = _role(role)
        messages.append({"role": role, "content": _parts(role, content) if with_pictures else _text(content)})
    rest = messages[1:] if messages[0]["role"] == "system" else messages
    for index, message in enumerate(rest):
        expected = ("user", "assistant")[index % 2]
        if message["role"] != expected:
            raise BadRow(f"the roles do not alternate: {message['role']} stands where {expected} should")
    if sum(len(text.encode()) for text in texts_in(messages)) > MAX_ROW_BYTES:
        raise BadRow(f"longer than {MAX_ROW_BYTES} bytes")
    return messages


def _role(role: Any) -> str:
    if role == "model":  # Gemma's own word for it
        return "assistant"
    if not isinstance(role, str):
        raise BadRow("a role is no text")
    if role not in ("system", "user", "assistant"):
        raise BadRow(f"unknown role {role[:40]!r}")
    return role


def _text(content: Any) -> str:
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in content)
    if not isinstance(content, str):
        raise BadRow("content is no text")
    if not content.strip():
        raise BadRow("an empty message")
    return _unicode(content)


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow("broken Unicode (half of a surrogate pair)") from None
    return text


def _parts(role: str, content: Any) -> str | list[dict[str, Any]]:
    """Content of a model that sees. A list stays one: templates write each of its texts by itself. That of a system
    message becomes a text, since Gemma's template would write the first of its parts only."""
    if role == "system" or not isinstance(content, list):
        return _text(content)
    parts = [_part_of_user(part) if role == "user" else _said(part) for part in content]
    if not any("image" in part or part["text"].strip() for part in parts):
        raise BadRow("an empty message")
    return parts


def _part_of_user(part: Any) -> dict[str, Any]:
    if isinstance(part, dict) and part.get("type") == "image":
        return {"type": "image", "image": part.get("image")}
    return _said(part)


def _said(part: Any) -> dict[str, Any]:
    if isinstance(part, dict) and part.get("type") == "image":
        raise BadRow("a picture where only users can show one")
    return {"type": "text", "text": _unicode(_text_part(part))}


def _text_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        raise BadRow("a picture where there can be none: a text job, or a system message")
    if kind != "text" or not isinstance(part.get("text"), str):
        raise BadRow("a content list holds {type: text, text} only, and of users {type: image, image} in a vision job")
    return str(part["text"])
