"""Reader of untrusted whole numbers."""

from __future__ import annotations

import re

from gemtune.untrusted.limits import Unreadable

WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]*", re.ASCII)


def read_number(text: str, *, least: int, most: int, named: str = "this") -> int:
    """Decode a non-negative whole number in decimal digits.

    Signs, leading zeros and blanks are refused. least, most: bounds, both included.
    Raises Unreadable with code `not_a_number`.
    """
    if len(text) <= len(str(most)) and WHOLE_NUMBER.fullmatch(text) and least <= int(text) <= most:
        return int(text)
    raise Unreadable(
        "not_a_number", f"{named} has to be a whole number from {least} to {most}", hint="leave it out for the default"
    )
