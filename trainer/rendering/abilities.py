"""Abilities of a chat template, found by rendering short conversations.

Templates differ: those of Gemma 1 and 2 refuse system turns and expect texts, those of Gemma 3 and 4 also take lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from gemtune.datasets.conversation import (
    Content,
    Conversation,
    Languages,
    Part,
    Text,
    ToolCall,
    Turn,
    content_texts,
)
from gemtune.datasets.refusal import BadRow
from gemtune.errors import StepError
from trainer.conversation.chat_template import ChatTemplate, TemplateRefusal

# Words of the probes, which no template writes by itself.
_SAID, _MORE = "quixotic", "zephyr"
# Codes of languages that every template for translations knows.
_ENGLISH, _GERMAN = "en", "de"
# Tags around the thoughts that DeepSeek's and Qwen's models write in front of an answer.
_THINK, _THOUGHT_ENDS = "<think>", "</think>"
_FENCE = "```"  # begins and ends a block of code
_ASKS = "enable_thinking"  # variable of templates of models that think if they are asked to


class Abilities:
    """Parts of a conversation that a chat template can show."""

    def __init__(self, template: ChatTemplate):
        self._template = template
        self._is_language: dict[str, bool] = {}

    def adapted(self, conversation: Conversation) -> Conversation:
        """Return a conversation as the template can show it.

        Lists of texts become one text where the template does not read lists. A system turn is put in front of the
        first user turn, with a blank line between, where the template has none; Gemma 3's does the same. Where it shows
        thinking, so are thoughts in `<think>` tags. Results of tools that are objects become JSON where it shows texts
        only. Raises BadRow for an option that the template does not have, and for codes of languages that it does not
        know or that it needs.
        """
        for name in conversation.template_options:
            if name not in self._template.variables:
                raise BadRow(f"the chat template has no variable {name[:60]!r}, which chat_template_kwargs sets")
        self._check_languages(conversation)
        turns: Sequence[Turn] = [
            self._with_readable_response(self._with_thinking(self._with_readable_content(turn)))
            for turn in conversation.turns
        ]
        if turns[0].role == "system" and len(turns) > 1 and not self.takes_system:
            turns = [_with_system(turns[1], turns[0]), *turns[2:]]
        if turns[0].role == "system" and self.names_developer:
            turns = [replace(turns[0], as_developer=True), *turns[1:]]
        users = [index for index, turn in enumerate(turns) if turn.role == "user"]
        return self.asked_to_think(conversation.with_turns(turns), turns[users[-1] + 1 :] if users else ())

    def asked_to_think(self, conversation: Conversation, answer: Sequence[Turn]) -> Conversation:
        """Return a conversation that asks for a thought if its answer has one.

        Templates of Gemma's large models end a prompt with an empty thought if they do not ask for one, so that no
        thought can follow. Raises BadRow if the row says not to ask.
        """
        thinks = any(self._with_thinking(turn).thinking for turn in answer)
        if not thinks or conversation.template_options.get(_ASKS) or not self.closes_thoughts:
            return conversation
        if _ASKS in conversation.template_options:
            raise BadRow(
                f"{_ASKS} is false, and its answer has thinking, which this chat template then does not expect"
            )
        return replace(conversation, template_options={**conversation.template_options, _ASKS: True})

    def _with_readable_content(self, turn: Turn) -> Turn:
        """Return a turn whose content the template shows as a whole."""
        if isinstance(turn.content, str):
            return turn
        shows_lists = self.shows_system_lists if turn.role == "system" else self.shows_lists
        if shows_lists or turn.languages or any(not isinstance(part, Text) for part in turn.content):
            return turn
        return turn.with_content("".join(content_texts(turn.content)))

    def _with_thinking(self, turn: Turn) -> Turn:
        """Return a turn with its tagged thoughts apart.

        It stays as it is if the template has no place for them. Raises BadRow for a tag that is not closed.
        """
        if turn.role != "assistant" or turn.thinking:
            return turn
        first, others = (turn.content, ()) if isinstance(turn.content, str) else (turn.content[:1], turn.content[1:])
        text = "".join(content_texts(first))
        if not _begins_with_thought(text) or not self.shows_thinking:
            return turn
        thought, answer = _split(text)
        content = answer if isinstance(first, str) else (*([Text(answer)] if answer else ()), *others)
        return replace(turn, thinking=thought, content=content)

    def _with_readable_response(self, turn: Turn) -> Turn:
        """Return a tool's result as a text where the template shows no object."""
        return turn if turn.response is None or self.shows_responses else turn.with_content(turn.content)

    def _check_languages(self, conversation: Conversation) -> None:
        """Raise BadRow for codes of languages that the template cannot show.

        They are missing, unknown, or without a place in it.
        """
        if not any(turn.languages for turn in conversation.turns):
            if self.needs_languages:
                raise BadRow(
                    "the base model's chat template writes translations: the content of each user has to be a list of "
                    "one part, {type: text, source_lang_code, target_lang_code, text}"
                )
            return
        if not self.shows_languages:
            raise BadRow(
                "the base model's chat template has no place for source_lang_code and target_lang_code: use a "
                "TranslateGemma, or write the languages into the text and ignore the codes in dataset_columns"
            )
        if self.needs_languages and any(turn.role == "system" for turn in conversation.turns):
            raise BadRow("the base model's chat template writes translations, and has no place for a system message")
        for turn in conversation.turns:
            for languages in turn.languages:
                for code in (languages.source, languages.target):
                    if not self._knows(code):
                        raise BadRow(f"the base model's chat template does not know the language {code[:40]!r}")

    def _knows(self, code: str) -> bool:
        """Return whether the template can translate from a language."""
        if code not in self._is_language:
            self._is_language[code] = self._translation(code, _ENGLISH) is not None
        return self._is_language[code]

    def _translation(self, source: str, target: str) -> str | None:
        return self._rendered(Turn("user", (Text(_SAID, Languages(source, target)),)))

    @cached_property
    def shows_languages(self) -> bool:
        """Return whether the rendering depends on codes of languages."""
        to_german, to_english = self._translation(_ENGLISH, _GERMAN), self._translation(_GERMAN, _ENGLISH)
        return to_german is not None and _SAID in to_german and to_german != to_english

    @cached_property
    def needs_languages(self) -> bool:
        """Return whether a text without codes of languages is refused."""
        return self.shows_languages and self._rendered(Turn("user", _SAID)) is None

    @cached_property
    def shows_responses(self) -> bool:
        """Return whether a tool's result that is an object is rendered."""
        turns = (
            Turn("user", "Hi"),
            Turn("assistant", calls=(ToolCall("f", {}),)),
            Turn("tool", _MORE, tool_name="f", response={_MORE: _SAID}),
        )
        rendered = self._rendered(*turns)
        return rendered is not None and _SAID in rendered and f"'{_SAID}'" not in rendered

    @cached_property
    def shows_thinking(self) -> bool:
        """Return whether thoughts are rendered, before an answer or a call."""
        call = ToolCall("f", {})
        turns = (Turn("assistant", _MORE, thinking=_SAID), Turn("assistant", thinking=_SAID, calls=(call,)))
        rendered = [self._rendered(Turn("user", "Hi"), turn) for turn in turns]
        return any(text is not None and _SAID in text for text in rendered)

    @cached_property
    def closes_thoughts(self) -> bool:
        """Return whether prompts have room for a thought on request only."""
        turns = self._template.turns
        if turns is None or not turns.empty_thought or _ASKS not in self._template.variables:
            return False
        prompts = (Conversation((Turn("user", _SAID),), template_options=each) for each in ({}, {_ASKS: True}))
        closes = [self._prompt(each).endswith(turns.empty_thought) for each in prompts]
        return closes == [True, False]

    def _prompt(self, conversation: Conversation) -> str:
        try:
            return self._template.render_conversation(conversation, add_generation_prompt=True)
        except (TemplateRefusal, StepError):
            return ""

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
    def names_developer(self) -> bool:
        """Return whether a system turn has to have the role developer.

        FunctionGemma calls it so.
        """
        system, user = Turn("system", _SAID), Turn("user", _MORE)
        as_developer = self._rendered(replace(system, as_developer=True), user)
        named = "developer" in self._template.text and as_developer is not None and _SAID in as_developer
        return named and as_developer != self._rendered(system, user)

    @cached_property
    def shows_tools(self) -> bool:
        """Return whether definitions of tools are rendered."""
        tool = {"type": "function", "function": {"name": _SAID, "description": _MORE, "parameters": {}}}
        rendered = self._rendered(Turn("user", "Hi"), tools=(tool,))
        return rendered is not None and _SAID in rendered

    @cached_property
    def shows_system_lists(self) -> bool:
        """Return whether every text of a system turn's list is rendered.

        Gemma 3's template shows the first one only.
        """
        rendered = self._rendered(Turn("system", (Text(_SAID), Text(_MORE))), Turn("user", "Hi"))
        return rendered is not None and _SAID in rendered and _MORE in rendered and "'text'" not in rendered

    def _rendered(self, *turns: Turn, tools: tuple[Mapping[str, Any], ...] = ()) -> str | None:
        """Return the rendering of turns, or None if the template cannot."""
        try:
            return self._template.render_conversation(Conversation(turns, tools))
        except (TemplateRefusal, StepError):
            return None


def _begins_with_thought(text: str) -> bool:
    """Return whether a text has a thought in tags in front of an answer.

    The first tag may be missing, since DeepSeek's prompts end with it; the other one is then on a line of its own, and
    not in a block of code. Tags elsewhere are what the answer is about.
    """
    if text.lstrip().startswith(_THINK):
        return True
    before, closing, _ = f"\n{text}".partition(f"\n{_THOUGHT_ENDS}\n")
    return bool(closing) and _THINK not in text and before.count(_FENCE) % 2 == 0


def _split(text: str) -> tuple[str, str]:
    """Return the thought in front of an answer, and the answer.

    An empty thought is none. Raises BadRow.
    """
    before, closing, answer = text.partition(_THOUGHT_ENDS)
    thought = before.lstrip().removeprefix(_THINK)
    if not closing or any(tag in part for tag in (_THINK, _THOUGHT_ENDS) for part in (thought, answer)):
        raise BadRow(
            f"its text begins with {_THINK} tags that are not around one thought: correct them, or write the thought "
            "into reasoning_content"
        )
    return thought.strip(), answer.lstrip()


def _with_system(user: Turn, system: Turn) -> Turn:
    """Return a user's turn that begins with the text of a system turn."""
    text = "".join(content_texts(system.content))
    return user.with_content(_prefixed(text, user.content))


def _prefixed(text: str, content: Content) -> Content:
    if isinstance(content, str):
        return f"{text}\n\n{content}"
    first: Sequence[Part] = content[:1]
    # Templates strip each part of a list, so that the blank line has to be inside of one.
    if first and isinstance(first[0], Text):
        return (Text(f"{text}\n\n{first[0].text}"), *content[1:])
    return (Text(text), *content)
