"""Tokens of a text, and which of them belong to one expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainer.rows.numbers.plain_text import NUMERAL, OPERATOR, THIN_SPACE
from trainer.rows.numbers.words import CURRENCIES, JOINERS

_LITERAL = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_POWER = r"(?:\^\{?-?\d+\}?)?"
_TOKEN = re.compile(
    rf"""
      (?P<fraction>\\[dtc]?frac\s*(?:\{{\s*[+-]?{_LITERAL}\s*\}}|\d)\s*(?:\{{\s*{_LITERAL}\s*\}}|\d))
    | (?P<number>(?:(?:\d{{1,3}}(?:{THIN_SPACE}\d{{3}})+(?!\d)|\d+(?:,\d+)*)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?!\w))?)
    | (?P<numeral>{NUMERAL})
    | (?P<word>[^\W\d_](?:\w|'(?=[a-z]))*{_POWER}(?:[-/][^\W_]\w*{_POWER})*)
    | (?P<command>\\[A-Za-z]+|\\.)
    | (?P<dots>\.\.+)
    | (?P<operator>[-+*/^_<>√÷‰|%°:'{OPERATOR}])
    | (?P<comma>[,;])
    | (?P<bracket>[()\[\]{{}}])
    | (?P<space>[^\S\n]+)
    | (?P<currency>[$€£¥₹])
    | (?P<other>.|\n)
    """,
    re.VERBOSE,
)
_NUMERIC = frozenset({"number", "fraction", "numeral"})
_EXPRESSION = _NUMERIC | {"operator", "command", "bracket", "dots"}
_OPENING, _CLOSING = "([{", ")]}"
# Marks that join two numbers, but are punctuation elsewhere.
_BETWEEN_NUMBERS = (":", "'")
# Joiners in a row, as in "divided by".
_MOST_JOINERS = 2


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a text.

    kind: the name of its part of the pattern. begin, end: where it is. currency_before, currency_behind: the currency
    whose sign is directly before or behind it; a dollar sign can also be one of LaTeX.
    """

    kind: str
    text: str
    begin: int
    end: int
    currency_before: str = ""
    currency_behind: str = ""

    @property
    def is_numeric(self) -> bool:
        return self.kind in _NUMERIC

    @property
    def letters(self) -> str:
        """The letters at the beginning of a word, in lower case."""
        return re.split(r"[\d_^/-]", self.text, maxsplit=1)[0].casefold()


def split(text: str) -> list[Token]:
    """Return the tokens of a plain text, without spaces and currency signs."""
    tokens: list[Token] = []
    currency = ""
    for match in _TOKEN.finditer(text):
        kind, piece = str(match.lastgroup), match.group()
        if kind == "currency":
            currency = CURRENCIES[piece]
            if tokens:
                tokens[-1] = replace(tokens[-1], currency_behind=currency)
        elif kind != "space":
            tokens.append(Token(kind, piece, match.start(), match.end(), currency_before=currency))
            currency = ""
    return tokens


def is_attached(left: Token, right: Token) -> bool:
    """Return whether there is no space between two tokens."""
    return left.end == right.begin


def group_around(tokens: Sequence[Token], index: int) -> tuple[int, int]:
    """Return the range of tokens that belong to one expression with a token."""
    begin, end = index, index + 1
    while begin > 0 and _are_bound(tokens, begin - 1):
        begin -= 1
    while end < len(tokens) and _are_bound(tokens, end - 1):
        end += 1
    return begin, end


def _are_bound(tokens: Sequence[Token], index: int) -> bool:
    """Return whether a token and the next one belong to one expression."""
    left, right = tokens[index], tokens[index + 1]
    attached = is_attached(left, right)
    if "word" in (left.kind, right.kind):
        return _is_word_bound(tokens, index, attached=attached)
    if "comma" in (left.kind, right.kind):
        comma = index if left.kind == "comma" else index + 1
        return _joins(tokens, comma, comma)
    if not {left.kind, right.kind} <= _EXPRESSION:
        return False
    for place in (index, index + 1):
        if tokens[place].text in _BETWEEN_NUMBERS:
            return _joins(tokens, place, place) and _is_spaced_evenly(tokens, place)
        if tokens[place].text == "|" and not attached:
            return False
    if "dots" in (left.kind, right.kind):
        return left.is_numeric and attached
    return not (right.text == "-" and _is_hyphen(tokens, index + 1))


def _is_word_bound(tokens: Sequence[Token], index: int, *, attached: bool) -> bool:
    """Return whether a word and what is before or behind it are bound.

    Joiners are between numbers. Other words are bound to what they are attached to, as in f(3), x-5 and 2*x. A word
    that is attached to a number's end, as in 2x, is judged later, since it can be a unit.
    """
    left, right = tokens[index], tokens[index + 1]
    for place in (index, index + 1):
        if tokens[place].text in JOINERS:
            begin = end = place
            while begin > 0 and place - begin < _MOST_JOINERS and tokens[begin - 1].text in JOINERS:
                begin -= 1
            while end + 1 < len(tokens) and end - place < _MOST_JOINERS and tokens[end + 1].text in JOINERS:
                end += 1
            if _joins(tokens, begin, end):
                return True
    if not attached or left.kind == right.kind:
        return False
    if left.kind == "word":
        return right.kind in _EXPRESSION and right.text not in (*_CLOSING, *_BETWEEN_NUMBERS, "|", "-", "<", ">", "%")
    return left.kind == "operator" and left.text in "*/^√π"


def _joins(tokens: Sequence[Token], begin: int, end: int) -> bool:
    """Return whether the tokens from begin to end are between numbers."""
    if begin == 0 or end + 1 >= len(tokens):
        return False
    left, right = tokens[begin - 1], tokens[end + 1]
    if left.text in (*_OPENING, "/") and begin > 1:  # as in 5 (or 7), and/or
        left = tokens[begin - 2]
    return (left.is_numeric or left.text in (*_CLOSING, "%", "°")) and (
        right.is_numeric or right.text in (*_OPENING, "-", "+") or right.kind == "command"
    )


def _is_spaced_evenly(tokens: Sequence[Token], index: int) -> bool:
    return is_attached(tokens[index - 1], tokens[index]) is is_attached(tokens[index], tokens[index + 1])


def _is_hyphen(tokens: Sequence[Token], index: int) -> bool:
    """Return whether a minus sign joins a number and a word, as in 5-day."""
    if index + 1 >= len(tokens):
        return False
    before, minus, after = tokens[index - 1 : index + 2]
    return after.kind == "word" and len(after.text) > 1 and is_attached(before, minus) and is_attached(minus, after)
