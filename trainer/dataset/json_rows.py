"""Rows of JSON: one per line, or one array of all rows."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from gemtune.datasets.files.json_array import BLANKS, ArraySplitter
from gemtune.datasets.files.wrapped_rows import NoRows, begin_of_array, check_end, cut_cells, unwrapped
from gemtune.datasets.reading.fields import shown
from gemtune.datasets.refusal import Refused
from gemtune.untrusted import Unreadable, read_json_object
from trainer.dataset.row import MAX_ROW_BYTES, Row, bad_dataset, too_long
from trainer.dataset.text_stream import CHUNK


def json_rows(stream: io.BufferedReader, longest: int, *, named: str) -> Iterator[Row]:
    """Yield the rows of a JSON file.

    Its first characters tell an array from lines. longest: limit of a row in bytes; a longer one is never in memory as
    a whole. Raises StepError `bad_dataset`.
    """
    lines = 0  # empty ones at the beginning
    while (start := stream.peek(1)) and start[:1] in BLANKS:
        lines += stream.read(1) == b"\n"
    begin = begin_of_array(start)
    if begin is None:
        return _of_lines(stream, longest, named, lines)
    stream.read(begin)
    return _of_array(stream, longest, named, wrapped=start[:1] != b"[")


def _of_lines(stream: io.BufferedReader, longest: int, named: str, number: int) -> Iterator[Row]:
    """Yield a row for each line that is not empty.

    number: of the line before.
    """
    first = True
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, too_long(longest)
        elif text := line.strip():
            row = _parsed(line)
            if first and isinstance(row, Refused) and (text == b"{" or _goes_on(text, stream)):
                hint = (
                    "write each row on a line of its own, or all rows as one array: [{…}, {…}]; if the rows are in a "
                    "list inside of one object, such as data, `jq -c '.data[]'` writes them so"
                )
                raise bad_dataset(f"{named} is neither JSON lines nor a JSON array", hint=hint)
            yield number, row
        first = False


def _goes_on(text: bytes, stream: io.BufferedReader) -> bool:
    """Return whether an object that a line begins goes on with the next line.

    Otherwise the next row begins there, and only this one is damaged.
    """
    begins = text.startswith(b"{") and not text.endswith(b"}")
    return begins and stream.peek(1).lstrip(BLANKS)[:1] not in (b"", b"{")


def _parsed(row: bytes) -> dict[str, Any] | Refused:
    try:
        read = read_json_object(row, max_bytes=len(row), not_finite=True)
    except Unreadable as error:
        reason = error.message.removeprefix("this ").removeprefix("is ")
        if row.lstrip().startswith(b"[") and error.code != "not_json":
            reason += ': write a list of messages as {"messages": […]}'
        return Refused(reason + _cause(row) if error.code == "not_json" else reason)
    if cells := cut_cells(read):
        return Refused(f"the viewer of the Hub has cut off its {shown(cells[0])}: download the file itself")
    return dict(unwrapped(read))


# A comma in front of a bracket, and quotes as Python writes them.
_COMMA, _PYTHON = re.compile(rb",\s*+[}\]]"), re.compile(rb"\s*+[\[{]\s*+'")


def _cause(row: bytes) -> str:
    """Return what is probably wrong with a row that is not JSON, or nothing."""
    if not row.strip():
        return ": nothing is between two commas, or behind the last one"
    if row.rstrip().endswith(b","):
        return ": remove the comma behind it"
    if _PYTHON.match(row):
        return ": it is written as Python prints it; write it with json.dumps"
    return ": there may be a comma in front of a bracket" if _COMMA.search(row) else ""


def _of_array(stream: io.BufferedReader, longest: int, named: str, *, wrapped: bool) -> Iterator[Row]:
    """Yield the elements of an array, whose bracket was read.

    Elements are told apart by their brackets and strings, and then read one by one, so that a broken one is refused by
    its number. wrapped: whether the array is in an object. Raises StepError `bad_dataset` if the array does not end, or
    something follows it.
    """
    splitter, number = ArraySplitter(longest), 0
    while not splitter.ended:
        chunk = stream.read1(CHUNK)
        if not chunk:
            raise bad_dataset(f"{named} ends within its array, after row {number}", hint="use a whole copy of the file")
        for element in splitter.elements(chunk):
            number += 1
            yield number, too_long(longest) if element is None else _parsed(element)
    rest = splitter.rest
    while len(rest) <= MAX_ROW_BYTES and (more := stream.read1(CHUNK)):
        rest = rest.strip(BLANKS) + more
    try:
        check_end(rest, wrapped=wrapped)
    except NoRows as problem:
        hint = (
            "upload one array" if not wrapped else "write its rows into a file of their own, as one array or as lines"
        )
        raise bad_dataset(f"{named} {problem}, behind row {number}", hint=hint) from None
