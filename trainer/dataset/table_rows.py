"""Rows of CSV and TSV: the first line names the columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from gemtune.datasets.files.table_header import NOT_UTF8, BadHeader, read_header
from gemtune.datasets.files.table_quotes import Quotes
from gemtune.datasets.refusal import Refused
from gemtune.untrusted import LONE_SURROGATE
from trainer.dataset.row import MAX_ROW_BYTES, Row, bad_dataset, too_long


def table_rows(stream: io.BufferedReader, longest: int, *, named: str, tabs: bool) -> Iterator[Row]:
    """Yield the rows of a table.

    Cells are texts; an empty cell is a field that the row does not have, and a line of empty cells is no row. Cells in
    double quotes may contain separators and line breaks (RFC 4180). tabs: they separate the cells, as in TSV. longest:
    limit of a row in bytes. Raises StepError `bad_dataset`.
    """
    # A process-wide limit of the library, which is below ours.
    csv.field_size_limit(max(csv.field_size_limit(), longest))
    header = stream.readline(MAX_ROW_BYTES)
    try:
        names, delimiter = read_header(header, tabs=tabs)
    except BadHeader as error:
        hint = "save it as CSV in UTF-8, with a name for each column in the first line"
        raise bad_dataset(f"the first line of {named} {error}", hint=hint) from error
    lines = _Lines(stream, longest, delimiter.encode())
    reader, number = csv.reader(lines, delimiter=delimiter, strict=True), 0
    while True:
        try:
            lines.begin_row()
            cells = next(reader)
        except StopIteration:
            return
        except _TooLong:
            number += 1
            lines.skip_row()
            yield number, too_long(longest)
        except csv.Error as error:
            number += 1
            yield number, Refused(f"not valid CSV: {error}")
        else:
            number += bool(cells)
            if any(cells):  # spreadsheets write lines of separators alone behind their last row
                yield number, _row(names, cells)


# A cell in quotes behind a space, which makes the quotes a part of the text.
_SPACED_QUOTES = re.compile(r'[ \t]+"[^"]*"[ \t]*\Z')


def _row(names: list[str], cells: list[str]) -> dict[str, Any] | Refused:
    if len(cells) != len(names):
        counted = f"{len(cells)} cells, where the first line names {len(names)} columns"
        return Refused(f"{counted}: a cell with a separator needs double quotes, with no space in front of them")
    if any(map(_SPACED_QUOTES.match, cells)):
        return Refused(
            "a cell has a space in front of its double quotes, which would be a part of it: remove the space"
        )
    if any(LONE_SURROGATE.search(cell) for cell in cells):
        return Refused(NOT_UTF8)
    return {name: cell for name, cell in zip(names, cells, strict=True) if cell}


class _TooLong(Exception):
    """Raised within a row that has too many bytes."""


class _Lines:
    """Lines of a table, as the library reads them.

    Bytes that are not UTF-8 become lone surrogates. longest: limit of a row, which may have several lines.
    """

    def __init__(self, stream: io.BufferedReader, longest: int, delimiter: bytes):
        self._stream, self._longest, self._delimiter = stream, longest, delimiter
        self._line_ended = True
        self.begin_row()

    def begin_row(self) -> None:
        """Count bytes from here on."""
        self._bytes, self._quotes = 0, Quotes(self._delimiter)

    def skip_row(self) -> None:
        """Skip to the end of a row: a line break that is not in quotes."""
        while self._quotes.are_open or not self._line_ended:
            if not self._read(MAX_ROW_BYTES):
                return

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line. Raises _TooLong."""
        line = self._read(self._longest + 1)
        if not line:
            raise StopIteration
        if self._bytes > self._longest:
            raise _TooLong
        return line.decode(errors="surrogateescape")

    def _read(self, most: int) -> bytes:
        line = self._stream.readline(most)
        self._bytes += len(line)
        self._quotes.read(line)
        self._line_ended = line.endswith(b"\n")
        return line
