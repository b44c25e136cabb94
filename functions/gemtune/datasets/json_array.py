"""Splitting of a JSON array into its elements, of which it holds only one."""

from __future__ import annotations

import re
from collections.abc import Iterator

BLANKS = b" \t\r\n"
# Characters that matter for finding the end of an element: outside of strings, and inside.
_OUTSIDE, _INSIDE = re.compile(rb'["\[\]{},]'), re.compile(rb'["\\]')


class ArraySplitter:
    """Splitter of an array's content into its elements, chunk by chunk.

    ended: the array's closing bracket was seen. rest: what follows it in the chunk.
    """

    def __init__(self, longest: int):
        self._longest = longest
        self._element: list[bytes] = []
        self._bytes, self._depth, self._in_string, self._escaped = 0, 0, False, False
        self._elements = 0
        self.ended, self.rest = False, b""

    def elements(self, chunk: bytes) -> Iterator[bytes | None]:
        """Yield the elements that end in a chunk; None if one is too long."""
        begin = place = 0
        if self._escaped:  # the chunk before ended with a backslash
            place, self._escaped = 1, False
        while (match := (_INSIDE if self._in_string else _OUTSIDE).search(chunk, place)) is not None:
            character, place = match.group(), match.end()
            if character == b'"':
                self._in_string = not self._in_string
            elif character == b"\\":
                place += 1
                self._escaped = place > len(chunk)
            elif character in b"[{":
                self._depth += 1
            elif self._depth > 0:
                self._depth -= character in b"]}"
            elif character == b",":
                self._append(chunk[begin : match.start()])
                yield self._taken()
                begin = place
            elif character == b"]":
                self._append(chunk[begin : match.start()])
                self.ended, self.rest = True, chunk[place:]
                if self._elements or self._bytes > self._longest or b"".join(self._element).strip(BLANKS):
                    yield self._taken()
                return
        self._append(chunk[begin:])

    def _append(self, part: bytes) -> None:
        """Add a part of an element, unless it is too long already."""
        self._bytes += len(part)
        if self._bytes <= self._longest:
            self._element.append(part)
        else:
            self._element.clear()

    def _taken(self) -> bytes | None:
        element = None if self._bytes > self._longest else b"".join(self._element)
        self._element, self._bytes = [], 0
        self._elements += 1
        return element
