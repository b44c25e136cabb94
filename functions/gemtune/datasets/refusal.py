"""Refusals of rows."""

from __future__ import annotations

from dataclasses import dataclass


class BadRow(Exception):
    """Raised for a row that cannot be used; its text is the reason."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be used, and the reason, in words for its owner."""

    reason: str


@dataclass(frozen=True, slots=True)
class TooLong(Refused):
    """A row with more tokens than the training takes.

    tokens: the max_seq_length that would be enough.
    """

    tokens: int
