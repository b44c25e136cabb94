"""Anthropic's rows: messages of blocks, and the system prompt beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemtune.datasets.conversation import Conversation, Image, Part, Role, Text, ToolCall, Turn
from gemtune.datasets.reading.content import image_of, joined, read_content, read_part
from gemtune.datasets.reading.fields import Fields
from gemtune.datasets.reading.flags import read_flag
from gemtune.datasets.reading.shape import Format, Row
from gemtune.datasets.reading.tools import arguments_of, name_of, read_tools, structured, template_options
from gemtune.datasets.reading.turns import ROLES, by_message, message_list, read_turn, role_of

BLOCKS = ("tool_use", "tool_result", "thinking", "redacted_thinking")
_HARMLESS = frozenset({"cache_control", "citations", "signature", "is_error"})


def is_anthropic(row: Row) -> bool:
    """Return whether messages are Anthropic's, not OpenAI's."""
    if "messages" not in row:
        return False
    if "system" in row:
        return True
    messages = row["messages"]
    if not isinstance(messages, list):
        messages = by_message(structured(messages))
    turns = messages if isinstance(messages, list) else ()
    contents = (turn.get("content") for turn in turns if isinstance(turn, (dict, Mapping)))
    return any(_is_block(block) for content in contents if isinstance(content, list) for block in content)


def _is_block(block: Any) -> bool:
    return isinstance(block, Mapping) and (block.get("type") in BLOCKS or block.get("source") is not None)


def _read(row: Fields) -> Conversation:
    turns: list[Turn] = []
    system = row.take("system")
    if system is not None and system != "":
        blocks = structured(system)
        if isinstance(blocks, list) and blocks and all(isinstance(each, Mapping) and "type" in each for each in blocks):
            system = blocks
        turns.append(Turn("system", read_content(system, "system", row, "system")))
    for number, each in enumerate(message_list(row.take("messages"), row, "messages"), 1):
        fields = row.within(each, "messages", f"turn {number}")
        turns += _turns(fields, each)
    tools = row.take_first("tools", "functions")
    return Conversation(tuple(turns), read_tools(tools, row), template_options(row))


def _turns(fields: Fields, message: Mapping[str, Any]) -> list[Turn]:
    """Return the turns of one message; each result of a tool is one.

    Raises BadRow.
    """
    content = message.get("content")
    if not isinstance(content, list) or not any(_is_block(block) for block in content):
        return [read_turn(fields)]
    role = role_of(fields.take("role"), ROLES, fields)
    blocks = [fields.within(block, "content") for block in fields.take("content")]
    trained = read_flag(fields, role)
    fields.close()
    parts: list[Part] = []
    results: list[Turn] = []
    calls: list[ToolCall] = []
    thoughts: list[str] = []
    for block in blocks:
        kind = block.take("type")
        if kind == "tool_use" and role == "assistant":
            call_id = block.take_text("id")
            calls.append(ToolCall(name_of(block), arguments_of(block.take("input"), block), call_id))
        elif kind == "tool_result" and role == "user":
            results.append(_result(block))
        elif kind == "thinking" and role == "assistant" and not parts and not calls:
            thoughts.append(block.take_text("thinking") or "")
        elif kind in BLOCKS:
            raise fields.bad(f"a block {kind!r}, which cannot be there")
        elif kind == "image":
            parts.append(_picture(block, role))
        else:
            parts.append(_text(block, kind))
        block.close(harmless=_HARMLESS)
    turn = Turn(role, joined(parts), "\n\n".join(thoughts), tuple(calls), trained=trained)
    return [*results, turn] if parts or calls or thoughts or not results else results


def _text(block: Fields, kind: Any) -> Text:
    text = block.take_text("text") if kind == "text" else None
    if text is None:
        raise block.bad(f"a block of the type {str(kind)[:40]!r}, which cannot be read")
    return Text(text)


def _result(block: Fields) -> Turn:
    """Return the result of a tool: a text, or a list of texts."""
    call_id, content = block.take_text("tool_use_id"), block.take("content")
    if isinstance(content, list):
        inner = [block.within(part, "content") for part in content]
        content = "\n".join(part.text for part in (read_part(each, "tool") for each in inner) if isinstance(part, Text))
    return Turn("tool", "" if content is None else read_content(content, "tool", block), call_id=call_id)


def _picture(block: Fields, role: Role) -> Image:
    """Return the picture of a block, whose source is base64 or an address."""
    source = block.within(block.take("source"), "source", "source")
    source.take("type"), source.take("media_type")
    data, url = source.take_text("data"), source.take_text("url")
    source.close(harmless=())
    return image_of({"bytes": data} if data is not None else url, role, block)


ANTHROPIC = Format(
    "anthropic",
    "Anthropic: `messages` of blocks (text, image, tool_use, tool_result, thinking), and `system` beside them; `tools`",
    ("messages", "system", "tools", "functions", "chat_template_kwargs", "enable_thinking"),
    is_anthropic,
    _read,
)
