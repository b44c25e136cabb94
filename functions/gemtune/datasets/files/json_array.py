"""Splitting of a JSON array into its elements, of which it holds only one."""

from __future__ import annotations

import re
from collections.abc import Iterator

BLANKS = b" \t\r\n"
# Bytes to skip in the search for the end of an element: within a string; within an element, where strings and all but
# brackets can be skipped; and between elements. Quantifiers are possessive (`++`), so that nothing is matched twice.
_IN_STRING = rb'(?:[^"\\]++|\\.)*+'
IN_STRING = re.compile(_IN_STRING, re.DOTALL)
WITHIN, BETWEEN = (
    re.compile(rb'(?:[^"\[\]{}' + comma + rb']++|"' + _IN_STRING + rb'")*+', re.DOTALL) for comma in (b"", b",")
)


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
        while place < len(chunk):
            skipped = (IN_STRING if self._in_string else WITHIN if self._depth else BETWEEN).match(chunk, place)
            assert skipped is not None  # all of them match nothing at least
            if (end := skipped.end()) == len(chunk):
                break
            character, place = chunk[end : end + 1], end + 1
            if character == b'"':  # the end of a string, or the beginning of one that goes on in the next chunk
                self._in_string = not self._in_string
            elif character == b"\\":
                self._escaped = True
            elif character in b"[{":
                self._depth += 1
            elif self._depth > 0:
                self._depth -= 1
            elif character == b",":
                self._append(chunk[begin:end])
                yield self._taken()
                begin = place
            elif character == b"]":
                self._append(chunk[begin:end])
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
