"""Control tokens in the texts of a row, which would begin or end turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gemtune.datasets.conversation import Conversation, content_texts
from gemtune.datasets.refusal import BadRow
from gemtune.families.generation import TurnFormat


class ControlTokens:
    """Control tokens of a base model.

    These are the special tokens of its tokenizer, and those of its turn format. harmless: special tokens that are
    checked elsewhere, those of pictures or audio.
    """

    def __init__(self, tokenizer: Any, turns: TurnFormat | None = None, harmless: Iterable[str] = ()):
        self._tokenizer, self._reserved = tokenizer, () if turns is None else turns.control_tokens
        self._of_calls = () if turns is None else turns.tool_call
        self._of_turns = () if turns is None else (turns.start, turns.end)
        ignored = {*harmless}
        self._special = {
            number: token.content
            for number, token in tokenizer.get_added_tokens_decoder().items()
            if token.special and token.content not in ignored
        }
        self._first_characters = "".join({text[:1] for text in self._special.values()})
        self._all_first_characters = {text[:1] for text in (*self._special.values(), *self._reserved)}

    def check(self, texts: Iterable[str]) -> None:
        """Raise BadRow if a text contains a control token."""
        texts = list(texts)
        together = "\n".join(texts)  # most rows have no control token anywhere
        if not any(character in together for character in self._all_first_characters):
            return
        for text in texts:
            token = self._token_in(text)
            if token is not None:
                hint = ": write calls of tools into tool_calls" if token in self._of_calls else ""
                hint = ": write the turns of a conversation as messages" if token in self._of_turns else hint
                raise BadRow(f"its text contains {token!r}, which the chat template uses as a control token{hint}")

    def _token_in(self, text: str) -> str | None:
        """Return the first control token that a text contains, or None."""
        for token in self._reserved:
            if token in text:
                return token
        if not any(character in text for character in self._first_characters):
            return None
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return next((self._special[number] for number in ids if number in self._special), None)


def texts_as_rendered(conversation: Conversation) -> Iterator[str]:
    """Yield every text of a conversation.

    The parts of a content also come as one text, as a template joins them.
    """
    yield from conversation.texts()
    for turn in conversation.turns:
        if not isinstance(turn.content, str) and len(turn.content) > 1:
            yield "".join(text.strip() for text in content_texts(turn.content))
