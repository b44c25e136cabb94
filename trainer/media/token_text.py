"""Media tokens: how a base model represents a picture or audio in its text."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemtune.datasets.conversation import Conversation
from gemtune.datasets.refusal import BadRow
from gemtune.errors import StepError
from trainer.media.sources import Noun

# A configuration that says more would make rows of any length.
MOST_IDS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class MediaTokens(ABC):
    """Tokens that stand for a medium: begin, a number of times soft, end.

    noun: of the medium, for messages. written: the token that the chat template writes for a medium, which is one of
    these. soft: the token whose embeddings the model replaces with those of the medium; soft_id: its id in the model's
    config.json.
    """

    noun: Noun
    written: str
    begin: str
    soft: str
    soft_id: int
    end: str

    @abstractmethod
    def media_in(self, conversation: Conversation) -> Sequence[Any]:
        """Return the opened media of a conversation, in order."""

    @abstractmethod
    def text_of(self, medium: Any) -> str:
        """Return the tokens of an opened medium. Raises BadRow."""

    def expanded(self, text: str, media: Sequence[Any]) -> str:
        """Expand a rendered row's media, as the model's processor does.

        media: of the row, opened, in order. Raises BadRow when the text contains such tokens of its own, and StepError
        `template_not_supported` when the chat template leaves out media.
        """
        pieces = text.split(self.written)
        if len(pieces) - 1 < len(media):
            many = self.noun.many
            problem = f"the base model's chat template writes {len(pieces) - 1} {many} where a row has {len(media)}"
            raise StepError("template_not_supported", problem, hint="use a base model with Gemma's template")
        if len(pieces) - 1 > len(media) or any(token in piece for piece in pieces for token in self.tokens):
            tokens = f"{', '.join(self.tokens[:-1])} or {self.end}"
            raise BadRow(f"its text contains {tokens}, which stand for {self.noun.one}")
        texts = [self.text_of(medium) for medium in media]
        return "".join(part for pair in zip(pieces, [*texts, ""], strict=True) for part in pair)

    def shortened(self, text: str) -> str:
        """Shorten the soft tokens of each medium to one, for people to read."""
        return re.sub(f"(?:{re.escape(self.soft)})+", lambda _: f"{self.soft}…", text)

    def whole_in(self, text: str) -> int:
        """Return how many media of an expanded text's beginning are whole."""
        return text.count(self.end)

    @property
    def tokens(self) -> tuple[str, str, str]:
        return (self.begin, self.soft, self.end)


def named_token(tokenizer: Mapping[str, Any], name: str) -> str:
    """Return a token by its name in a tokenizer_config.json.

    Raises StepError `bad_base_model`.
    """
    token = tokenizer.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise StepError("bad_base_model", f"the base model's tokenizer_config.json names no {name}")
    return text


def checked_number(name: str, value: Any, most: int) -> int:
    """Return a number of a model's configuration.

    Raises StepError `bad_base_model` unless it is a whole number from 1 to `most`.
    """
    if type(value) is not int or not 1 <= value <= most:
        message = f"{name} is {value!r}: expected a whole number from 1 to {most}"
        raise StepError("bad_base_model", message, hint="use the configuration that came with the model")
    return value
