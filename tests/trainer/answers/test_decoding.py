"""Texts of answers while their tokens arrive, with thoughts apart."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from gemtune import families
from trainer.answers.decoding import AnswerText

PIECES = ["<|channel>", "thought\n", "Hm", "m.", "<channel|>", "Yes", "!", "\u00e9".encode()[:1], "\u00e9".encode()[1:]]
BEGIN, HEADING, HM, M, END, YES, MARK, FIRST_BYTE, LAST_BYTE = range(len(PIECES))


class FakeRuntime:
    """Vocabulary of PIECES; the first and the fifth one are special tokens."""

    def __init__(self, family: str = "Gemma 4"):
        turns = next(each.turns for each in families.FAMILIES if each.name == family)
        self.template: Any = SimpleNamespace(turns=turns)

    def token_id(self, text: str) -> int | None:
        return PIECES.index(text) if text in PIECES else None

    def text(self, tokens: Sequence[int]) -> str:
        pieces = [PIECES[token] for token in tokens if token not in (BEGIN, END)]
        return b"".join(piece if isinstance(piece, bytes) else piece.encode() for piece in pieces).decode(
            errors="replace"
        )


def pieces_of(tokens: Sequence[int], family: str = "Gemma 4") -> tuple[list[tuple[str, bool]], AnswerText]:
    runtime: Any = FakeRuntime(family)
    text = AnswerText(runtime)
    return [piece for token in tokens for piece in text.add(token)] + list(text.rest()), text


def test_thoughts_are_apart_and_their_heading_is_left_out() -> None:
    pieces, text = pieces_of([BEGIN, HEADING, HM, M, END, YES, MARK])
    assert pieces == [("Hm", True), ("m.", True), ("Yes", False), ("!", False)]
    assert (text.text(thoughts=True), text.text(thoughts=False), text.thought_tokens) == ("Hmm.", "Yes!", 3)


def test_a_thought_that_does_not_end_is_no_answer() -> None:
    _, text = pieces_of([BEGIN, HEADING, HM])
    assert (text.text(thoughts=True), text.text(thoughts=False)) == ("Hm", "")


def test_families_without_thoughts_show_every_text() -> None:
    pieces, text = pieces_of([YES, MARK], "Gemma 3")
    assert (pieces, text.text(thoughts=False)) == ([("Yes", False), ("!", False)], "Yes!")


def test_a_character_of_several_tokens_is_shown_when_it_is_complete() -> None:
    assert pieces_of([YES, FIRST_BYTE, LAST_BYTE])[0] == [("Yes", False), ("\u00e9", False)]


def test_a_character_that_stays_incomplete_is_shown_at_the_end() -> None:
    assert pieces_of([YES, FIRST_BYTE])[0] == [("Yes", False), ("\ufffd", False)]
