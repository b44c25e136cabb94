"""Arrays of rows in a JSON file: all of it, or a field of its only object.

Programs wrap rows so: the viewer of the Hub in `rows`, many others in `data`. Fields beside the rows are about all
of them, such as a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gemtune.datasets.files.json_array import BLANKS, IN_STRING, WITHIN
from gemtune.untrusted import Unreadable, read_json_object

# Fields that rows are in.
NAMES = frozenset(("data", "rows", "examples", "records", "samples", "items", "instances", "train"))
# Fields beside them that are about the file.
_ABOUT = frozenset(
    (
        *("version", "name", "title", "description", "info", "meta", "metadata", "license", "licenses", "licence"),
        *("author", "authors", "citation", "homepage", "url", "source", "dataset", "language", "created", "created_at"),
        *("date", "count", "total", "length", "features", "columns", "splits", "config", "object", "has_more"),
        *("num_rows_total", "num_rows_per_page", "partial", "truncated", "first_id", "last_id"),
        *("page", "per_page", "next", "previous"),
    )
)
_BLANKS = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb"[^,\]{}\[\" \t\r\n]++")
# The first row of an array; messages are not rows.
_ROWS = re.compile(rb"\[[ \t\r\n]*+\{(?![ \t\r\n]*+\"(?:role|content|from|value)\")")
# Fields of a row of the viewer.
_OF_VIEWER = frozenset(("row_idx", "row", "truncated_cells"))


class NoRows(ValueError):
    """Raised for something behind the rows of a file; its text says what."""


def begin_of_array(start: bytes) -> int | None:
    """Return where the rows of an array begin, or None for a row per line.

    start: the first bytes of a file, without a byte order mark. The place is behind the bracket.
    """
    place = _after_blanks(start, 0)
    if start[place : place + 1] == b"[":
        return place + 1
    for name, value in _fields(start, place):
        if name in NAMES and _ROWS.match(start, value):
            return None if _is_line(start, place, name) else value + 1
        if name not in _ABOUT:
            return None
    return None


def check_end(rest: bytes, *, wrapped: bool) -> None:
    """Raise NoRows if anything but the end of the file follows an array.

    rest: what does. wrapped: whether the array is in an object, which has to end, and may say more about the file.
    """
    if not wrapped:
        if rest.strip(BLANKS):
            raise NoRows("goes on after the end of its array")
        return
    try:
        beside = read_json_object(b'{"rows":[]' + rest, max_bytes=len(rest) + 16, not_finite=True)
    except Unreadable:
        raise NoRows("goes on after its rows, and not with the end of the object that has them") from None
    others = [name for name in beside if name not in (*_ABOUT, "rows")]
    if others:
        raise NoRows(f"has a field {others[0][:60]!r} beside its rows")


def unwrapped(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row inside of one of the Hub's viewer, {row_idx, row}.

    Any other row stays as it is.
    """
    inner = row.get("row")
    return inner if isinstance(inner, Mapping) and "row_idx" in row and row.keys() <= _OF_VIEWER else row


def cut_cells(row: Mapping[str, Any]) -> list[str]:
    """Return the columns of a viewer's row that it has cut off."""
    cells = row.get("truncated_cells")
    return [str(cell) for cell in cells] if unwrapped(row) is not row and isinstance(cells, list) else []


def _is_line(start: bytes, place: int, rows: str) -> bool:
    """Return whether an object is a row on a line, and not a file's only one.

    Another object follows it, and it has more than rows and what is about a file. place: of the object. rows: the field
    that may have the rows of a file.
    """
    following = _after_blanks(start, _after_value(start, place))
    has_more = any(name not in _ABOUT and name != rows for name, _ in _fields(start, place))
    return has_more and start[following : following + 1] == b"{"


def _fields(start: bytes, place: int) -> Iterator[tuple[str, int]]:
    """Yield the names of an object's fields, and where their values begin.

    It ends where the object does, or these bytes.
    """
    if start[place : place + 1] != b"{":
        return
    while start[place : place + 1] in (b"{", b","):
        begin = _after_blanks(start, place + 1)
        end = _after_string(start, begin)
        colon = _after_blanks(start, end)
        if start[colon : colon + 1] != b":":
            return
        value = _after_blanks(start, colon + 1)
        yield start[begin + 1 : end - 1].decode(errors="replace"), value
        place = _after_blanks(start, _after_value(start, value))


def _after_blanks(start: bytes, place: int) -> int:
    blanks = _BLANKS.match(start, place)
    return place if blanks is None else blanks.end()


def _after_string(start: bytes, place: int) -> int:
    """Return the place behind a string, or the end if it is none."""
    if start[place : place + 1] != b'"':
        return len(start)
    inside = IN_STRING.match(start, place + 1)
    return len(start) if inside is None else inside.end() + 1


def _after_value(start: bytes, place: int) -> int:
    """Return the place behind a value, or the end if it does not end."""
    first = start[place : place + 1]
    if first == b'"':
        return _after_string(start, place)
    if first not in (b"{", b"["):
        scalar = _SCALAR.match(start, place)
        return len(start) if scalar is None else scalar.end()
    depth = 0
    while place < len(start):
        depth += {b"[": 1, b"{": 1}.get(start[place : place + 1], -1)
        place += 1
        if depth == 0:
            return place
        skipped = WITHIN.match(start, place)
        assert skipped is not None  # it matches nothing at least
        place = skipped.end()
        if start[place : place + 1] == b'"':  # a string that does not end here
            return len(start)
    return len(start)
