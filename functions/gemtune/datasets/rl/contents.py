"""Content of a row of each algorithm."""

from __future__ import annotations

from dataclasses import dataclass

from gemtune.datasets.conversation import Conversation, Turn


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, a better answer and a worse one.

    Each answer begins with a turn of the assistant.
    """

    prompt: Conversation
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns of the row."""
        return (*self.prompt.turns, *self.chosen, *self.rejected)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt and an answer that is desirable or not."""

    prompt: Conversation
    completion: tuple[Turn, ...]
    label: bool

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns of the row."""
        return (*self.prompt.turns, *self.completion)


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and by column the answers that rewards compare with."""

    prompt: Conversation
    answers: dict[str, str]
