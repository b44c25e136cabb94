"""Value of a number: of an integer, a decimal, a fraction or a power."""

from __future__ import annotations

import re
from fractions import Fraction

# Longer numbers are not read, nor powers of more digits.
MAX_DIGITS = 1000
OPENING, CLOSING = "([{", ")]}"

LITERAL = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
_EXPONENT = r"(?:\{[+-]?\d{1,4}\}|[+-]?\d{1,4})"
# The forms of a number without its sign.
_VALUE = re.compile(LITERAL)
_QUOTIENT = re.compile(rf"({LITERAL}) ?/ ?({LITERAL})")
_MIXED = re.compile(r"(\d+) (\d+) ?/ ?(\d+)")
_POWER_OF_TEN = re.compile(rf"({LITERAL}) ?[*xX] ?10 ?\^ ?({_EXPONENT})")
_POWER = re.compile(rf"(\(?-?{LITERAL}\)?) ?(?:\^|\*\*) ?({_EXPONENT})")


def without_brackets(text: str) -> str:
    """Remove brackets around a text, and those without a partner at its ends."""
    while text:
        partner = _partner(text)
        if text[0] in CLOSING or (text[0] in OPENING and partner is None):
            text = text[1:].strip()
        elif text[0] in OPENING and partner == len(text) - 1:
            text = text[1:-1].strip()
        elif text[-1] in OPENING or (text[-1] in CLOSING and not any(each in OPENING for each in text)):
            text = text[:-1].strip()
        else:
            break
    return text


def _partner(text: str) -> int | None:
    """Return the place of the bracket that closes the first character."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character in OPENING) - (character in CLOSING)
        if depth == 0:
            return place
    return None


def signed(text: str, *, negates: bool) -> Fraction | None:
    """Return the value of a number with an optional sign; None if it is none."""
    sign = -1 if negates else 1
    if text[:1] in ("+", "-"):
        if negates:
            return None
        sign, text = (-1 if text[0] == "-" else 1), without_brackets(text[1:])
    value = _unsigned(text)
    return None if value is None else sign * value


def _unsigned(text: str) -> Fraction | None:
    """Return the value of a number without a sign; None if it is none."""
    if _VALUE.fullmatch(text):
        return Fraction(text)
    if match := _QUOTIENT.fullmatch(text):
        return _quotient(Fraction(match[1]), Fraction(match[2]))
    if match := _MIXED.fullmatch(text):
        whole, over, under = map(int, match.groups())
        return whole + Fraction(over, under) if over < under else None
    if match := _POWER_OF_TEN.fullmatch(text):
        power = _power(Fraction(10), match[2])
        return None if power is None else Fraction(match[1]) * power
    if match := _POWER.fullmatch(text):
        return _power_of_text(match[1], match[2])
    return None


def _power_of_text(base: str, exponent: str) -> Fraction | None:
    """Return a power; a negative base needs parentheses around it."""
    inner = base.removeprefix("(").removesuffix(")")
    if (base != inner) != (len(base) == len(inner) + 2) or (base == inner and inner.startswith("-")):
        return None
    return _power(Fraction(inner), exponent)


def _power(base: Fraction, exponent: str) -> Fraction | None:
    """Return a power; None if it is not defined or has too many digits."""
    power = int(exponent.strip("{}"))
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(power) > 4 * MAX_DIGITS or (base == 0 and power <= 0):
        return None
    return base**power


def _quotient(over: Fraction, under: Fraction) -> Fraction | None:
    return None if under == 0 else over / under
