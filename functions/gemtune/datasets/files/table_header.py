"""First line of a table: the names of its columns, and what separates them."""

from __future__ import annotations

import csv

from gemtune.untrusted import first_repeated

# Reason to refuse a row, in words of programs that save tables.
NOT_UTF8 = "not UTF-8 text: save the table as CSV UTF-8"


class BadHeader(ValueError):
    """Raised when the first line of a table does not name its columns."""


def read_header(line: bytes, *, tabs: bool) -> tuple[list[str], str]:
    """Return the names of the columns, and the separator of the table.

    Separators are tabs, or else what the line has most of: commas, semicolons, as spreadsheets write where the comma
    separates decimals, or tabs. A column without a name is called by its number. line: in UTF-8. Raises BadHeader.
    """
    delimiter = "\t" if tabs else max(",;\t", key=lambda separator: line.count(separator.encode()))
    if line.startswith(b"sep=") and len(line.strip()) <= len(b"sep=,"):
        raise BadHeader("is for Excel only (sep=): remove it, so that the first line names the columns")
    if b"\r" in line.rstrip(b"\r\n"):
        raise BadHeader("ends like lines of an old Macintosh, with a carriage return alone")
    try:
        (cells,) = csv.reader([line.decode()], delimiter=delimiter, strict=True) if line.strip() else [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadHeader(f"does not name its columns: {error}") from error
    names = [name.strip() or f"column {number}" for number, name in enumerate(cells, 1)]
    twice = first_repeated(names)
    if twice is not None:
        raise BadHeader(f"has two columns {twice[:80]!r}")
    return names, delimiter
