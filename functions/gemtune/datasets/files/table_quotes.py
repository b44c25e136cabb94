"""Double quotes of a table, within which line breaks end no row."""

from __future__ import annotations

from typing import Literal


class Quotes:
    """State of the double quotes in a row, as far as it was read.

    Follows csv of the standard library: a quote opens a cell at its beginning only, so that `5" screen` is a cell.
    delimiter: of the cells; None where quotes mean nothing.
    """

    def __init__(self, delimiter: bytes | None, state: Literal["start", "plain", "quoted"] = "start"):
        self._delimiter = delimiter
        self._state: Literal["start", "plain", "quoted", "closed", "ended"] = state

    @property
    def are_open(self) -> bool:
        """Return whether a line break would be a part of a cell."""
        return self._state == "quoted"

    @property
    def may_be_doubled(self) -> bool:
        """Return whether the next byte tells if the last quote closed."""
        return self._state == "closed"

    def read(self, part: bytes) -> None:
        """Read a line of a row, or a part of one."""
        at = 0
        while self._delimiter is not None and at < len(part) and self._state != "ended":
            if self._state == "quoted":
                at = part.find(b'"', at) + 1
                self._state = "closed" if at else "quoted"
                at = at or len(part)
            elif part[at : at + 1] == b'"' and self._state != "plain":
                self._state, at = "quoted", at + 1
            elif self._state == "closed" and part[at : at + 1] != self._delimiter:
                self._state = "ended"  # with the line: the library refuses a row with anything else behind a quote
            else:
                at = (part.find(self._delimiter + b'"', at) + 1) or len(part)  # the next cell in quotes
                self._state = "start" if part[at - 1 : at] == self._delimiter else "plain"
