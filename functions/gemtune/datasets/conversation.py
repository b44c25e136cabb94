"""Conversations: the shape into which every format of rows is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
# A message as chat templates expect it: role and content, and where a turn has them tool_calls, reasoning_content,
# tool_call_id and name. The names are those of transformers' apply_chat_template.
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Languages:
    """Codes of the languages that a part is translated from and into.

    TranslateGemma's rows have them.
    """

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Text:
    """A text in a list of parts. Templates render each of them separately.

    languages: of a text to translate.
    """

    text: str
    languages: Languages | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a list of parts.

    file: as the row has it: {bytes, path}, a path, or a data: URL. Later, the opened picture. languages: of a picture
    whose text is to be translated.
    """

    file: Any
    languages: Languages | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """An audio clip in a list of parts. file, languages: see Image."""

    file: Any
    languages: Languages | None = None


Medium = Image | Audio
Part = Text | Medium
Content = str | tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool by the assistant. arguments: by name, decoded."""

    name: str
    arguments: Mapping[str, Any]
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """Turn of one role.

    thinking: the assistant's thoughts before it answers. calls: tools that the assistant calls. call_id, tool_name: of
    a tool's result, the call that it answers and the tool's name. response: of a tool's result that is an object, the
    object; content is then the same as JSON text. trained: whether the row says that the model learns this turn; None
    if it says nothing. as_developer: of a system turn, whether the chat template calls its role developer.
    """

    role: Role
    content: Content = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    tool_name: str | None = None
    trained: bool | None = None
    response: Mapping[str, Any] | None = None
    as_developer: bool = False

    @property
    def is_empty(self) -> bool:
        """Return whether the turn says nothing at all."""
        return not self.calls and not self.thinking.strip() and not _has_content(self.content)

    @property
    def is_plain(self) -> bool:
        """Return whether it is a text of the user or the assistant."""
        is_text = self.role in ("user", "assistant") and not self.calls and not self.thinking
        return is_text and (isinstance(self.content, str) or not self.languages)

    def with_content(self, content: Content) -> Turn:
        """Return the turn with another content."""
        return replace(self, content=content, response=None)

    @property
    def languages(self) -> tuple[Languages, ...]:
        """Return the languages of its parts that are to be translated."""
        if isinstance(self.content, str):
            return ()
        return tuple(part.languages for part in self.content if part.languages is not None)

    def texts(self) -> Iterator[str]:
        """Yield every text of the turn, those of its calls included."""
        yield from content_texts(self.content) if self.response is None else texts_in(self.response)
        yield self.thinking
        for languages in self.languages:
            yield from (languages.source, languages.target)
        yield from filter(None, (self.call_id, self.tool_name))
        for call in self.calls:
            yield call.name
            yield from texts_in(call.arguments)

    def message(self) -> Message:
        """Return the turn as chat templates expect it."""
        content = content_value(self.content)
        if self.response is not None:
            content = {"name": self.tool_name, "response": dict(self.response)}
        message: Message = {"role": "developer" if self.as_developer else self.role, "content": content}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self.calls:
            message["tool_calls"] = [_call_value(call) for call in self.calls]
        if self.call_id is not None:
            message["tool_call_id"] = self.call_id
        if self.tool_name is not None:
            message["name"] = self.tool_name
        return message


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of a row, and what the assistant knows beside them.

    tools: definitions of the tools that the assistant can call, each `{"type": "function", "function": {…}}`.
    template_options: further variables of the chat template, such as enable_thinking.
    """

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Return whether there are only texts of users and the assistant.

        Every chat template shows these.
        """
        return not self.tools and all(turn.is_plain for turn in self.turns)

    @property
    def unusual_fields(self) -> tuple[str, ...]:
        """Return the names of fields that some chat templates do not show."""
        present = {
            "tools": bool(self.tools),
            "tool_calls": any(turn.calls for turn in self.turns),
            "results of tools": any(turn.role == "tool" for turn in self.turns),
            "thinking": any(turn.thinking for turn in self.turns),
            "codes of languages": any(turn.languages for turn in self.turns),
        }
        return tuple(name for name, is_there in present.items() if is_there)

    def messages(self) -> list[Message]:
        """Return the turns as chat templates expect them."""
        return [turn.message() for turn in self.turns]

    def texts(self) -> Iterator[str]:
        """Yield every text of the conversation, those of tools included."""
        for turn in self.turns:
            yield from turn.texts()
        if self.tools:
            yield from texts_in(self.tools)

    def images(self) -> list[Any]:
        """Return what stands for each picture, in order."""
        return self._files(Image)

    def with_images(self, images: Sequence[Any]) -> Conversation:
        """Return the conversation with other pictures, in order."""
        return self._with_files(Image, images)

    def clips(self) -> list[Any]:
        """Return what stands for each audio clip, in order."""
        return self._files(Audio)

    def with_clips(self, clips: Sequence[Any]) -> Conversation:
        """Return the conversation with other audio clips, in order."""
        return self._with_files(Audio, clips)

    def _files(self, kind: type[Medium]) -> list[Any]:
        return [
            part.file
            for turn in self.turns
            if not isinstance(turn.content, str)
            for part in turn.content
            if isinstance(part, kind)
        ]

    def _with_files(self, kind: type[Medium], files: Sequence[Any]) -> Conversation:
        ahead = iter(files)

        def replaced(content: Content) -> Content:
            if isinstance(content, str):
                return content
            return tuple(replace(part, file=next(ahead)) if isinstance(part, kind) else part for part in content)

        return self.with_turns([replace(turn, content=replaced(turn.content)) for turn in self.turns])

    def with_turns(self, turns: Sequence[Turn]) -> Conversation:
        """Return the conversation with other turns."""
        turns = tuple(turns)
        return self if turns == self.turns else Conversation(turns, self.tools, self.template_options)

    def first(self, count: int) -> Conversation:
        """Return the conversation up to so many turns."""
        return self.with_turns(self.turns[:count])


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text to continue, without turns. Every token of it is trained."""

    text: str


def of_messages(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Return the conversation of messages with a role and a text each."""
    return Conversation(tuple(Turn(message["role"], message["content"]) for message in messages))


def content_texts(content: Content) -> list[str]:
    """Return the texts of a content."""
    return [content] if isinstance(content, str) else [part.text for part in content if isinstance(part, Text)]


def content_value(content: Content) -> Any:
    """Return a content as chat templates expect it."""
    if isinstance(content, str):
        return content
    return [_part_value(part) for part in content]


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in a value of JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from texts_in(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from texts_in(inner)


def _has_content(content: Content) -> bool:
    if isinstance(content, str):
        return bool(content.strip())
    return any(not isinstance(part, Text) or part.text.strip() for part in content)


def _part_value(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            value = {"type": "text", "text": text}
        case Image(file):
            value = {"type": "image", "image": file}
        case Audio(file):
            value = {"type": "audio", "audio": file}
    if part.languages is None:
        return value
    return value | {"source_lang_code": part.languages.source, "target_lang_code": part.languages.target}


def _call_value(call: ToolCall) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
    return value if call.call_id is None else {"id": call.call_id} | value
