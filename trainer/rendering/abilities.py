"""Abilities of a chat template, found by rendering short conversations.

Templates differ: those of Gemma 1 and 2 refuse system turns and expect texts, those of Gemma 3 and 4 also take lists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from gemtune.datasets.conversation import Content, Conversation, Image, Text, ToolCall, Turn, content_texts
from gemtune.datasets.refusal import BadRow
from gemtune.errors import StepError
from trainer.conversation.chat_template import ChatTemplate, TemplateRefusal

# Words of the probes, which no template writes by itself.
_SAID, _MORE = "quixotic", "zephyr"
# Thoughts as DeepSeek's and Qwen's models write them in front of an answer.
_THOUGHT = re.compile(r"\s*<think>\s*(?P<thought>\S.*?)\s*</think>\s*", re.DOTALL)


class Abilities:
    """Parts of a conversation that a chat template can show."""

    def __init__(self, template: ChatTemplate):
        self._template = template

    def adapted(self, conversation: Conversation) -> Conversation:
        """Return a conversation as the template can show it.

        Lists of texts become one text where the template does not read lists. A system turn is put in front of the
        first user turn, with a blank line between, where the template has none; Gemma 3's does the same. Where it shows
        thinking, so are thoughts in `<think>` tags. Raises BadRow for an option that the template does not have.
        """
        for name in conversation.template_options:
            if name not in self._template.variables:
                raise BadRow(f"the chat template has no variable {name[:60]!r}, which chat_template_kwargs sets")
        turns = [self._with_thinking(self._with_readable_content(turn)) for turn in conversation.turns]
        if turns[0].role == "system" and len(turns) > 1 and not self.takes_system:
            turns = [_with_system(turns[1], turns[0]), *turns[2:]]
        return conversation.with_turns(turns)

    def _with_readable_content(self, turn: Turn) -> Turn:
        """Return a turn whose content the template shows as a whole."""
        if isinstance(turn.content, str):
            return turn
        shows_lists = self.shows_system_lists if turn.role == "system" else self.shows_lists
        if shows_lists or any(isinstance(part, Image) for part in turn.content):
            return turn
        return turn.with_content("".join(content_texts(turn.content)))

    def _with_thinking(self, turn: Turn) -> Turn:
        """Return a turn with its tagged thoughts apart.

        It stays as it is if the template has no place for them.
        """
        if turn.role != "assistant" or turn.thinking or not isinstance(turn.content, str):
            return turn
        tagged = _THOUGHT.match(turn.content)
        if tagged is None or not self.shows_thinking:
            return turn
        return replace(turn, thinking=tagged["thought"], content=turn.content[tagged.end() :])

    @cached_property
    def shows_thinking(self) -> bool:
        """Return whether thoughts are rendered, before an answer or a call."""
        call = ToolCall("f", {})
        turns = (Turn("assistant", _MORE, thinking=_SAID), Turn("assistant", thinking=_SAID, calls=(call,)))
        rendered = [self._rendered(Turn("user", "Hi"), turn) for turn in turns]
        return any(text is not None and _SAID in text for text in rendered)

    @cached_property
    def shows_lists(self) -> bool:
        """Return whether lists of texts are rendered like texts."""
        as_list = self._rendered(Turn("user", (Text(_SAID),)))
        return as_list is not None and as_list == self._rendered(Turn("user", _SAID))

    @cached_property
    def takes_system(self) -> bool:
        """Return whether system turns are rendered."""
        rendered = self._rendered(Turn("system", _SAID), Turn("user", _MORE))
        return rendered is not None and _SAID in rendered

    @cached_property
    def shows_system_lists(self) -> bool:
        """Return whether every text of a system turn's list is rendered.

        Gemma 3's template shows the first one only.
        """
        rendered = self._rendered(Turn("system", (Text(_SAID), Text(_MORE))), Turn("user", "Hi"))
        return rendered is not None and _SAID in rendered and _MORE in rendered and "'text'" not in rendered

    def _rendered(self, *turns: Turn) -> str | None:
        """Return the rendering of turns, or None if the template cannot."""
        try:
            return self._template.render_conversation(Conversation(turns))
        except (TemplateRefusal, StepError):
            return None


def _with_system(user: Turn, system: Turn) -> Turn:
    """Return a user's turn that begins with the text of a system turn."""
    text = "".join(content_texts(system.content))
    return user.with_content(_prefixed(text, user.content))


def _prefixed(text: str, content: Content) -> Content:
    if isinstance(content, str):
        return f"{text}\n\n{content}"
    first: Sequence[Text | Image] = content[:1]
    # Templates strip each part of a list, so that the blank line has to be inside of one.
    if first and isinstance(first[0], Text):
        return (Text(f"{text}\n\n{first[0].text}"), *content[1:])
    return (Text(text), *content)
