"""Messages of a row, checked and brought into one shape.

A row of supervised fine-tuning has `messages`, or `prompt` and `completion`. Both become a list of messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trainer.dataset.row import MAX_ROW_BYTES, Refused

# {role, content}. content is a text or, in a vision job, a list of {type: text, text} and {type: image, image}.
Message = dict[str, Any]
Messages = list[Message]


class BadRow(Exception):
    """Raised for a row that cannot be used; its text is the reason."""


def conversation(row: dict[str, Any], *, with_pictures: bool = False) -> Messages | Refused:
    """Return the messages of a row of supervised fine-tuning.

    row: `{"messages"}` or `{"prompt", "completion"}`, where a plain string is one message. The messages are an optional
    system message, then user and assistant in turn, with at least one of the assistant. with_pictures: users may show
    pictures; the pictures themselves are not checked here.
    """
    try:
        messages = checked_messages(_messages(row), with_pictures=with_pictures)
        if not any(message["role"] == "assistant" for message in messages):
            raise BadRow("no message of the assistant")
    except BadRow as bad:
        return Refused(str(bad))
    return messages


def texts_in(messages: Messages) -> Iterator[str]:
    for message in messages:
        content = message["content"]
        yield from [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def pictures_in(messages: Messages) -> list[Any]:
    """Return the `image` value of each picture, in order."""
    lists = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return [part["image"] for content in lists for part in content if part["type"] == "image"]


def with_pictures(messages: Messages, images: Sequence[Any]) -> Messages:
    """Return the messages with other `image` values, in order."""
    ahead = iter(images)

    def replaced(content: Any) -> Any:
        if isinstance(content, str):
            return content
        return [part | {"image": next(ahead)} if part["type"] == "image" else part for part in content]

    return [message | {"content": replaced(message["content"])} for message in messages]


def _messages(row: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return (role, content) of each message, unchecked."""
    if "messages" in row:
        return _turns(row["messages"], "messages")
    if "prompt" in row and "completion" in row:
        return [
            *column_turns(row["prompt"], "user", "prompt"),
            *column_turns(row["completion"], "assistant", "completion"),
        ]
    if {"chosen", "rejected"} & set(row) or {"prompt", "answer"} <= set(row):
        raise BadRow("this is a row for RL; supervised training needs messages, or prompt and completion")
    raise BadRow(f"supervised training needs messages, or prompt and completion; the row has {names_in(row)}")


def names_in(row: dict[str, Any]) -> str:
    """Return the names of a row's fields, for messages."""
    names = ", ".join(sorted(map(str, row)))[:100] or "nothing"
    return names.encode(errors="backslashreplace").decode()  # a name can be broken Unicode, a report cannot


def column_turns(value: Any, role: str, column: str) -> list[tuple[Any, Any]]:
    """Return (role, content) of each message of a column, unchecked.

    value: a list of messages, or a text, which is one message of the role.
    """
    return [(role, value)] if isinstance(value, str) else _turns(value, column)


def _turns(value: Any, column: str) -> list[tuple[Any, Any]]:
    if not isinstance(value, list) or not value:
        raise BadRow(f"{column} is not a list of messages")
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise BadRow("a message needs role and content")
    return [(message["role"], message["content"]) for message in value]


def checked_messages(turns: list[tuple[Any, Any]], *, with_pictures: bool = False) -> Messages:
    """Check turns of (role, content) and return them as messages.

    An optional system message comes first, then user and assistant in turn. Raises BadRow.
    """
    messages: Messages = []
    for role, content in turns:
        role = _role(role)
        messages.append({"role": role, "content": _parts(role, content) if with_pictures else _text(content)})
    rest = messages[1:] if messages[0]["role"] == "system" else messages
    for index, message in enumerate(rest):
        expected = ("user", "assistant")[index % 2]
        if message["role"] != expected:
            raise BadRow(f"the roles do not alternate: {message['role']} instead of {expected}")
    if sum(len(text.encode()) for text in texts_in(messages)) > MAX_ROW_BYTES:
        raise BadRow(f"longer than {MAX_ROW_BYTES} bytes")
    return messages


def _role(role: Any) -> str:
    if role == "model":  # the assistant's name in Gemma's turn format
        return "assistant"
    if not isinstance(role, str):
        raise BadRow("a role is not a text")
    if role not in ("system", "user", "assistant"):
        raise BadRow(f"unknown role {role[:40]!r}")
    return role


def _text(content: Any) -> str:
    if isinstance(content, list):
        content = "".join(_text_part(part) for part in content)
    if not isinstance(content, str):
        raise BadRow("the content of a message is not a text")
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
    """Return the content of a message in a vision job.

    A list stays a list, because templates render each of its texts separately. A system message becomes one text,
    because Gemma's template renders only its first part.
    """
    if role == "system" or not isinstance(content, list):
        return _text(content)
    parts = [_user_part(part) if role == "user" else _checked_text_part(part) for part in content]
    if not any("image" in part or part["text"].strip() for part in parts):
        raise BadRow("an empty message")
    return parts


def _user_part(part: Any) -> dict[str, Any]:
    if isinstance(part, dict) and part.get("type") == "image":
        return {"type": "image", "image": part.get("image")}
    return _checked_text_part(part)


def _checked_text_part(part: Any) -> dict[str, Any]:
    if isinstance(part, dict) and part.get("type") == "image":
        raise BadRow("a picture in a message of the assistant; only users can show one")
    return {"type": "text", "text": _unicode(_text_part(part))}


def _text_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        raise BadRow("a picture, which neither text jobs nor system messages can have")
    if kind != "text" or not isinstance(part.get("text"), str):
        raise BadRow("a part of a content list is neither {type: text, text} nor, in vision jobs, {type: image, image}")
    return str(part["text"])
