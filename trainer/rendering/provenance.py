"""Provenance of a rendered text: the fields that wrote its parts.

A chat template may leave out what it has no words for, or write two turns as one. To find that out, a conversation is
rendered a second time with a mark in each of its texts: a character of Unicode's private use planes, which occurs
nowhere else. Without the marks, both renderings are the same; a mark that is missing belongs to a field that the
template does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

from gemtune.datasets.conversation import Content, Conversation, Text, ToolCall, Turn
from gemtune.datasets.refusal import BadRow

# First characters of the planes for private use.
PLANES = (0xF0000, 0x100000)
Field = Literal["content", "thinking", "tool_calls", "arguments", "tools", "tools.description", "tools.enum"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Field of a conversation.

    turn: its index; None: the definitions of tools.
    """

    turn: int | None
    field: Field


@dataclass(frozen=True, slots=True)
class Provenance:
    """Places of a rendered text, and the fields that they come from.

    places: (index of a character, origin), sorted. missing: fields that the template does not show.
    """

    places: list[tuple[int, Origin]]
    missing: tuple[Origin, ...]

    def turns_in(self, begin: int, end: int) -> frozenset[int]:
        """Return the turns that wrote these characters."""
        return frozenset(
            origin.turn for place, origin in self.places if origin.turn is not None and begin <= place < end
        )


def trace(conversation: Conversation, text: str, render: Callable[[Conversation], str]) -> Provenance:
    """Return where the texts of a conversation are in its rendering.

    text: the rendering. Raises BadRow if the template writes another text because of the marks, and what `render`
    raises.
    """
    marks = _Marks(conversation)
    marked = render(marks.conversation)
    places: list[tuple[int, Origin]] = []
    plain: list[str] = []
    for character in marked:
        origin = marks.origins.get(character)
        if origin is None:
            plain.append(character)
        else:
            places.append((len(plain), origin))
    if "".join(plain) != text:
        raise BadRow("the chat template changes its texts, so that what it leaves out cannot be told")
    missing = (origin for mark, origin in marks.origins.items() if mark not in marked)
    return Provenance(places, tuple(dict.fromkeys(missing)))


def check_shown(provenance: Provenance, conversation: Conversation, trained: Collection[int]) -> tuple[str, ...]:
    """Raise BadRow if the chat template leaves out something to learn.

    Returns the names of fields that it leaves out and that cannot change what is learned: details of tools, and
    thoughts of turns that are not learned. trained: indices of the turns to learn.
    """
    unread: dict[str, None] = {}
    for origin in provenance.missing:
        if origin.field in ("tools.description", "tools.enum") or (
            origin.field == "thinking" and origin.turn not in trained
        ):
            unread[origin.field] = None
        elif origin.turn is None:
            raise BadRow(
                f"its {origin.field} are not shown by the base model's chat template: {_OTHER_MODEL}, or add "
                "{tools: null} to dataset_columns if its texts tell of them"
            )
        else:
            raise BadRow(_not_shown(conversation, origin.turn, origin.field))
    return tuple(unread)


_OTHER_MODEL = "use a base model whose template has tools"
_NEWER = "use a base model, or a newer revision of its chat_template.jinja, whose template does"


def _not_shown(conversation: Conversation, index: int, name: Field) -> str:
    """Return the reason why a turn cannot be trained on."""
    role, turn = conversation.turns[index].role, f"turn {index + 1}"
    if name == "thinking":
        is_last = index == len(conversation.turns) - 1
        return (
            f"the chat template does not show the thinking of {turn}: "
            f"{_NEWER if is_last else 'set train_on to last_turn, end the row with this turn'}, take thoughts in "
            "<think> tags out of the text, or ignore a field with thoughts in dataset_columns, such as "
            "{messages.reasoning_content: null}"
        )
    if name in ("tool_calls", "arguments"):
        return f"the chat template does not show the {name} of {turn}: {_OTHER_MODEL}"
    if role == "tool":
        return f"the chat template does not show the tool's result in {turn}: {_OTHER_MODEL}"
    return f"the chat template leaves out what the {role} says in {turn}"


@dataclass
class _Marks:
    """A conversation with marks, and the field of each mark."""

    conversation: Conversation
    origins: dict[str, Origin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        used = {character for text in self.conversation.texts() for character in text if ord(character) >= PLANES[0]}
        plane = next((start for start in PLANES if not any(ord(one) & ~0xFFFF == start for one in used)), None)
        if plane is None:
            raise BadRow("its text contains characters for private use of both planes")
        self._numbers = count(plane)
        turns = [self._turn(index, turn) for index, turn in enumerate(self.conversation.turns)]
        tools = tuple(self._tool(tool) for tool in self.conversation.tools)
        self.conversation = replace(self.conversation, turns=tuple(turns), tools=tools)

    def _text(self, text: str, origin: Origin) -> str:
        """Return a text with a mark in its middle, which no template strips."""
        core = text.strip()
        if not core:
            return text
        mark = chr(next(self._numbers))
        self.origins[mark] = origin
        place = text.index(core) + len(core) // 2
        return text[:place] + mark + text[place:]

    def _turn(self, index: int, turn: Turn) -> Turn:
        origin = Origin(index, "content")
        return replace(
            turn,
            content=turn.content if turn.response is not None else self._content(turn.content, origin),
            response=self._values(turn.response, origin),
            thinking=self._text(turn.thinking, Origin(index, "thinking")),
            calls=tuple(self._call(call, index) for call in turn.calls),
        )

    def _content(self, content: Content, origin: Origin) -> Content:
        if isinstance(content, str):
            return self._text(content, origin)
        return tuple(
            replace(part, text=self._text(part.text, origin)) if isinstance(part, Text) else part for part in content
        )

    def _call(self, call: ToolCall, index: int) -> ToolCall:
        name = self._text(call.name, Origin(index, "tool_calls"))
        return replace(call, name=name, arguments=self._values(call.arguments, Origin(index, "arguments")))

    def _values(self, value: Any, origin: Origin) -> Any:
        """Return a value of JSON with a mark in each text.

        Keys stay, because templates sort them.
        """
        if isinstance(value, str):
            return self._text(value, origin)
        if isinstance(value, Mapping):
            return {name: self._values(inner, origin) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._values(inner, origin) for inner in value]
        return value

    def _tool(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        function = dict(tool["function"])
        function["name"] = self._text(function["name"], Origin(None, "tools"))
        function["description"] = self._text(function["description"], Origin(None, "tools.description"))
        if "parameters" in function:
            function["parameters"] = self._schema(function["parameters"])
        return {**tool, "function": function}

    def _schema(self, schema: Any) -> Any:
        """Return a JSON Schema with a mark in each description and value."""
        if isinstance(schema, list):
            return [self._schema(inner) for inner in schema]
        if not isinstance(schema, Mapping):
            return schema
        marked: dict[str, Any] = {}
        for name, value in schema.items():
            if name == "properties" and isinstance(value, Mapping):
                marked[name] = {parameter: self._schema(inner) for parameter, inner in value.items()}
            elif name == "description" and isinstance(value, str):
                marked[name] = self._text(value, Origin(None, "tools.description"))
            elif name == "enum":
                marked[name] = self._values(value, Origin(None, "tools.enum"))
            else:
                marked[name] = self._schema(value)
        return marked
