"""Pages of a text file's rows, read from any offset and bounded in bytes.

Rows are JSON lines, or lines of a table whose cells in double quotes may contain line breaks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gemtune.datasets.files.table_quotes import Quotes

# start, length -> these bytes of the file, or fewer where it ends earlier
ReadRange = Callable[[int, int], bytes]

CHUNK = 1024 * 1024
# Bytes of a row that is shown; a longer one is only counted.
LONGEST_ROW = 1024 * 1024
# Bytes that one page reads at most: a longer row is skipped by several pages.
MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Place in a file at which a page begins.

    offset: in bytes. number: of the last row before it. within: inside of a row that is too long, which has been
    counted. quoted: and inside of a cell in double quotes.
    """

    offset: int = 0
    number: int = 0
    within: bool = False
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row of a file, and the place behind it.

    content: None if the row is longer than LONGEST_ROW. number: from 1; in a file of JSON lines, of its line; 0 for
    more of a row that was counted on an earlier page.
    """

    number: int
    content: bytes | None
    after: Place


def rows_from(read_range: ReadRange, place: Place, *, delimiter: bytes | None) -> Iterator[RawRow]:
    """Yield rows from a place on, until the file ends or MOST_BYTES are read.

    Empty lines are left out; in a file of JSON lines they count for the numbers. delimiter: of the cells of a table,
    where double quotes matter, empty lines do not count, lines of empty cells count and are left out, and blanks are a
    cell; None for JSON lines. The last place is that of the last row, or within it.
    """
    reader = _Reader(read_range, place.offset, delimiter)
    if place.within:
        quoted, ended = reader.skip_row(place.quoted)
        if not ended:
            yield RawRow(0, None, Place(reader.offset, place.number, within=True, quoted=quoted))
            return
    number = place.number
    while (row := reader.row()) is not None:
        if row.content is not None and not row.content.strip(None if delimiter is None else b"\r\n"):
            number += delimiter is None
            continue
        number += 1
        if delimiter is not None and row.content is not None and _has_only_empty_cells(row.content, delimiter):
            continue
        yield RawRow(number, row.content, Place(reader.offset, number, within=not row.ended, quoted=row.quoted))
        if not row.ended:
            return


def _has_only_empty_cells(content: bytes, delimiter: bytes) -> bool:
    if content.strip(b'"\r\n' + delimiter):
        return False
    text = io.StringIO(content.decode(), newline="")
    try:
        return not any(any(cells) for cells in csv.reader(text, delimiter=delimiter.decode(), strict=True))
    except csv.Error:
        return False  # it is a row, which the training refuses


@dataclass(frozen=True, slots=True)
class _Row:
    """A row; content: None if it is too long. ended: its end was found."""

    content: bytes | None
    ended: bool = True
    quoted: bool = False


class _Reader:
    """Reader of a file in chunks; offset: of the next byte."""

    def __init__(self, read_range: ReadRange, offset: int, delimiter: bytes | None):
        self._read_range, self.offset, self._start = read_range, offset, offset
        self._delimiter = delimiter
        self._buffer = b""

    def row(self) -> _Row | None:
        """Return the next row, or None at the end of the file."""
        parts: list[bytes] = []
        length, quotes = 0, Quotes(self._delimiter)
        while line := self._line():
            length += len(line)
            quotes.read(line)
            parts += [line] if length <= LONGEST_ROW else []
            if line.endswith(b"\n") and not quotes.are_open:
                return _Row(b"".join(parts) if length <= LONGEST_ROW else None)
            if self._exhausted and not quotes.may_be_doubled:
                return _Row(None, ended=False, quoted=quotes.are_open)
        if not length:
            return None
        return _Row(b"".join(parts) if length <= LONGEST_ROW else None)

    def skip_row(self, quoted: bool) -> tuple[bool, bool]:
        """Skip to the end of a row.

        Returns whether it ends in quotes, and whether its end was found.
        """
        quotes = Quotes(self._delimiter, "quoted" if quoted else "plain")
        while line := self._line():
            quotes.read(line)
            if line.endswith(b"\n") and not quotes.are_open:
                return False, True
            if self._exhausted and not quotes.may_be_doubled:
                return quotes.are_open, False
        return quotes.are_open, True

    @property
    def _exhausted(self) -> bool:
        return self.offset - self._start >= MOST_BYTES

    def _line(self) -> bytes:
        """Return the next line or a part of it; empty at the end."""
        if not self._buffer or b"\n" not in self._buffer:
            self._buffer += self._read_range(self.offset + len(self._buffer), CHUNK)
        end = self._buffer.find(b"\n") + 1 or len(self._buffer)
        line, self._buffer = self._buffer[:end], self._buffer[end:]
        self.offset += len(line)
        return line
