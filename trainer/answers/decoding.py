"""Text of an answer while its tokens arrive, with the model's thoughts apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from trainer.answers.runtime import Runtime

# Stands at the end of a text whose last character is not complete yet.
INCOMPLETE = "\ufffd"


@dataclass
class _Section:
    """Tokens of an answer or of a thought.

    heading: text at its beginning that is not shown. shown: number of characters that were shown.
    """

    is_thought: bool
    heading: str = ""
    tokens: list[int] = field(default_factory=list)
    shown: int = 0


class AnswerText:
    """Decoder of an answer's tokens.

    Some models of Gemma 4 think before they answer: between two tokens, and below a heading.
    """

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        turns = runtime.template.turns
        begin, self._heading, end = (turns.thought if turns is not None else None) or ("", "", "")
        self._begin, self._end = (runtime.token_id(token) if token else None for token in (begin, end))
        self._sections = [_Section(is_thought=False)]

    def add(self, token: int) -> Iterator[tuple[str, bool]]:
        """Take the next token; yield texts and whether they are thoughts."""
        section = self._sections[-1]
        if token in (self._begin, self._end):
            yield from self.rest()
            is_thought = token == self._begin
            self._sections.append(_Section(is_thought, self._heading if is_thought else ""))
            return
        section.tokens.append(token)
        text = self._text(section)
        if not text.endswith(INCOMPLETE) and not section.heading.startswith(text):
            yield from self._new(section, text)

    def rest(self) -> Iterator[tuple[str, bool]]:
        """Yield what the newest tokens left incomplete."""
        section = self._sections[-1]
        yield from self._new(section, self._text(section))

    def text(self, *, thoughts: bool) -> str:
        """Return the whole text of the answer, or of the thoughts."""
        return "".join(
            self._text(section).removeprefix(section.heading)
            for section in self._sections
            if section.is_thought is thoughts
        )

    @property
    def thought_tokens(self) -> int:
        """The number of tokens in thoughts."""
        return sum(len(section.tokens) for section in self._sections if section.is_thought)

    def _text(self, section: _Section) -> str:
        return self._runtime.text(section.tokens)

    def _new(self, section: _Section, text: str) -> Iterator[tuple[str, bool]]:
        new = text.removeprefix(section.heading)[section.shown :]
        section.shown += len(new)
        if new:
            yield new, section.is_thought
