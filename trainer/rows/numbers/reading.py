r"""Numbers as people write them: integers, decimals, fractions, percentages.

A text is split into tokens. Tokens around a number that belong to one expression with it are its group, and a group is
a number only if all of it is written in one of the forms below. `10:30`, `3 and 5`, `\sqrt{3}` and `2x` are none, so no
part of them counts as a number. Values are exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from trainer.rows.numbers import words
from trainer.rows.numbers.group import Token, group_around, is_attached, split
from trainer.rows.numbers.plain_text import BOUNDARY, THIN_SPACE, plain_text
from trainer.rows.numbers.value import CLOSING, LITERAL, MAX_DIGITS, OPENING, signed, without_brackets

# Characters at the end of a completion in which its last number is searched, and the most of an answer.
MAX_TEXT = 20_000
MAX_BRACKETS = 20

_BY_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?![\d,])")
_SIMPLE_FRACTION = re.compile(
    rf"\\[dtc]?frac\s*(?:\{{\s*([+-]?{LITERAL})\s*\}}|(\d))\s*(?:\{{\s*({LITERAL})\s*\}}|(\d))"
)
_UNIT_WORDS = 3


class NotOneNumber(ValueError):
    """Raised for an answer that is not one number; its text says why."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text.

    unit: names of up to three words behind it. currency: the name of the currency whose sign it has, or nothing.
    """

    value: Fraction
    unit: tuple[str, ...] = ()
    currency: str = ""

    @property
    def _units(self) -> list[tuple[str, ...]]:
        return [unit for unit in (self.unit, (self.currency,)) if any(unit)]

    def has_unit_of(self, answer: Number) -> bool:
        """Return whether the unit is the answer's, or one of them has none."""
        needed = answer._units
        return not needed or not self._units or any(unit[: len(needed[0])] == needed[0] for unit in self._units)


@lru_cache(maxsize=4096)
def read_answer(text: str) -> Number:
    """Return the number of a row's answer.

    Its unit is what follows it, if the answer is nothing but the number and the unit. Raises NotOneNumber.
    """
    text = plain_text(text)
    if len(text) > MAX_TEXT:
        raise NotOneNumber("is too long for a number")
    tokens = split(text)
    numeric = [index for index, token in enumerate(tokens) if token.is_numeric]
    if not numeric:
        raise NotOneNumber("has no number")
    begin, end = group_around(tokens, numeric[-1])
    if numeric[0] < begin:
        raise NotOneNumber("has more than one number (a reward's after names the text before the right one)")
    number = _read(tokens, begin, end)
    if number is None or _is_followed_by_exclamation(tokens, end):
        raise NotOneNumber("is no number that can be compared")
    starts = all(token.kind in ("bracket", "other") for token in tokens[:begin])
    rest = [token for token in tokens[end:] if token.kind == "word"]
    return number if starts and len(rest) <= _UNIT_WORDS else Number(number.value)


def last_number(text: str) -> Number | None:
    """Return the last number of a text.

    None if there is no number, or if the last one is part of an expression that is not a number.
    """
    text = plain_text(text)
    tokens = split(text[-MAX_TEXT:])
    last = next((index for index in reversed(range(len(tokens))) if tokens[index].is_numeric), None)
    if last is None:
        return None
    begin, end = group_around(tokens, last)
    is_cut = begin == 0 and len(text) > MAX_TEXT
    return None if is_cut else _read(tokens, begin, end)


def _read(tokens: list[Token], begin: int, end: int) -> Number | None:
    """Return the number that is the group tokens[begin:end], or None."""
    before, after = tokens[max(0, begin - 2) : begin], tokens[end : end + _UNIT_WORDS + 2]
    negates = _negates(before)
    group = _text_of(tokens[begin:end], spaced_sign=bool(before) and before[-1].text == BOUNDARY)
    if group is None or negates is None:
        return None
    is_percent, is_degree = group.endswith("%"), group.endswith("°")
    group = group.rstrip("%° ") if is_percent or is_degree else group
    value = signed(group, negates=negates)
    if value is None or _is_exclaimed_inside(after):
        return None
    factor, unit = (Fraction(1), (_degree(tokens[end - 1], after),)) if is_degree else _behind(tokens[end - 1], after)
    if factor is None:
        return None
    if is_percent:
        value /= 100
    return Number(value * factor, unit, _currency(tokens[begin], tokens[end - 1]))


def _degree(last: Token, after: list[Token]) -> str:
    """Return the unit that a degree sign begins."""
    has_scale = bool(after) and after[0].kind == "word" and is_attached(last, after[0])
    return f"°{after[0].text}" if has_scale else "°"


def _currency(first: Token, last: Token) -> str:
    """Return the currency of a group of tokens.

    A dollar sign behind a number is the end of LaTeX.
    """
    before, behind = first.currency_before, last.currency_behind
    if behind == words.CURRENCIES["$"]:
        return ""
    return before or behind


def _negates(before: list[Token]) -> bool | None:
    """Return whether the words before a number negate it.

    None if they make it another number in a way that is not read, as in "root of 3".
    """
    if not before or before[-1].kind != "word":
        return False
    last = before[-1].letters
    if last in words.NEGATIVE:
        return True
    if last in words.NOT_BEFORE:
        return None
    of = last == "of" and len(before) > 1 and before[0].kind == "word" and before[0].letters in words.NOT_BEFORE_OF
    return None if of else False


def _behind(last: Token, after: list[Token]) -> tuple[Fraction | None, tuple[str, ...]]:
    """Return the factor and the unit that the tokens behind a number mean.

    The factor is None if they make it another number in a way that is not read, as in 2x.
    """
    factor, attached = Fraction(1), bool(after) and last.kind != "bracket" and is_attached(last, after[0])
    following: list[str] = []
    for token in after:
        if token.kind != "word" or last.kind == "bracket":
            break
        following.append(token.text)
    if attached and following and following[0] not in words.ATTACHED_UNITS:
        return None, ()
    if following and following[0].casefold() in words.SCALES:
        factor = Fraction(words.SCALES[following.pop(0).casefold()])
        if following and following[0].casefold() in words.SCALES:
            return None, ()
    if following and (following[0].casefold() in words.PERCENT or following[:2] == ["per", "cent"]):
        return factor / 100, ()
    if following and not attached and _is_other_number(following[0]):
        return None, ()
    return factor, tuple(words.unit_name(word) for word in following[:_UNIT_WORDS])


def _is_other_number(word: str) -> bool:
    """Return whether a word behind a number makes it another one."""
    is_variable = len(word) == 1 and word not in words.ATTACHED_UNITS | words.ARTICLES
    return is_variable or word.casefold() in words.NOT_AFTER or any(each.isdigit() for each in word[:2])


def _is_followed_by_exclamation(tokens: list[Token], end: int) -> bool:
    """Return whether an exclamation mark follows, which may mean a factorial."""
    return end < len(tokens) and tokens[end].text == "!" and is_attached(tokens[end - 1], tokens[end])


def _is_exclaimed_inside(after: list[Token]) -> bool:
    """Return whether an exclamation mark follows that ends no sentence."""
    if after and after[0].text == "!" and after[0].currency_behind:  # the dollar sign is the end of LaTeX
        return True
    marks = len(after) > 1 and after[0].text == "!" and is_attached(after[0], after[1])
    return marks and after[1].text not in ("\n", '"', "*", "'", ")", "!", BOUNDARY)


def _text_of(group: list[Token], *, spaced_sign: bool) -> str | None:
    """Return a group as text in one spelling; None if it cannot be a number.

    spaced_sign: whether a sign may stand before a space.
    """
    text, previous = "", None
    for token in group:
        piece = token.text
        if token.kind in ("numeral", "command", "dots", "comma") or len(piece) > MAX_DIGITS:
            return None
        if token.kind == "fraction":
            match = _SIMPLE_FRACTION.fullmatch(piece)
            assert match is not None  # the token has the same form
            numerator, denominator = (part for part in match.groups() if part is not None)
            piece = f"{numerator}/{denominator}"
            piece = f" {piece}" if previous is not None and previous.is_numeric else piece
        elif token.kind == "number":
            piece = piece.replace(THIN_SPACE, "")
            if "," in piece and not _BY_THOUSANDS.match(piece):
                return None
            piece = piece.replace(",", "")
        is_sign = spaced_sign and not text.strip("+-")
        if previous is not None and not is_attached(previous, token) and not is_sign:
            text += " "
        text, previous = text + piece, token
    is_readable = len(text) <= 4 * MAX_DIGITS and sum(map(text.count, OPENING + CLOSING)) <= MAX_BRACKETS
    return without_brackets(text) if is_readable else None
