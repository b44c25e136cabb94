"""Byte order marks, which tell the encoding of a file of text."""

from __future__ import annotations

import codecs
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mark:
    """Byte order mark of a file, and the encoding it stands for.

    content: empty for a file without a mark, which is UTF-8.
    """

    content: bytes
    encoding: str


# The longest ones come first, because UTF-32's mark begins with UTF-16's.
MARKS = (
    Mark(codecs.BOM_UTF32_LE, "utf-32-le"),
    Mark(codecs.BOM_UTF32_BE, "utf-32-be"),
    Mark(codecs.BOM_UTF8, "utf-8"),
    Mark(codecs.BOM_UTF16_LE, "utf-16-le"),
    Mark(codecs.BOM_UTF16_BE, "utf-16-be"),
)
NO_MARK = Mark(b"", "utf-8")


def mark_of(start: bytes) -> Mark:
    """Return the byte order mark that a file of text begins with."""
    return next((mark for mark in MARKS if start.startswith(mark.content)), NO_MARK)
