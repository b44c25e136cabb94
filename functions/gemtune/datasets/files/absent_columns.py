"""Columns that no row of a local file has, told without reading its rows."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path

from gemtune.datasets.files import columns, text_columns
from gemtune.datasets.files.kinds import kind_of
from gemtune.datasets.files.text_encoding import mark_of
from gemtune.untrusted import MAX_BYTES


def first_columns(file: Path) -> frozenset[str] | None:
    """Return the columns of a table or of Parquet, or the first row's.

    None if the first bytes of the file do not tell them.
    """
    kind = kind_of(file.name)
    if kind is None:
        return None
    with file.open("rb") as opened:

        def read_range(start: int, length: int) -> bytes:
            opened.seek(start)
            return opened.read(length)

        if kind.layout == "parquet":
            return columns.of_parquet(file.stat().st_size, read_range)
        return text_columns.of_text(kind, read_range(0, MAX_BYTES))


def lacks(file: Path, column: str) -> bool:
    """Return whether it is certain that no row of a file has a column.

    It is not for compressed JSON, other encodings than UTF-8, and rows of the Hub's viewer in Parquet, which have their
    columns inside of one.
    """
    kind, size = kind_of(file.name), file.stat().st_size
    if kind is None or size == 0:
        return False
    if kind.layout != "json":
        names = first_columns(file)
        return names is not None and column not in names and "row_idx" not in names
    if kind.compression is not None:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return mark_of(content[:4]).encoding == "utf-8" and _as_key(column).search(content) is None


def _as_key(name: str) -> re.Pattern[bytes]:
    """Return the pattern of a key of JSON, however its characters are written."""
    return re.compile(b'"%s"[ \t\r\n]*:' % b"".join(map(_spellings, name)))


def _spellings(character: str) -> bytes:
    """Return the pattern of a character in a string of JSON."""
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    escaped = "".join(rf"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
    plain = {json.dumps(character, ensure_ascii=False)[1:-1], *(["\\/"] if character == "/" else [])}
    texts = (re.escape(text.encode(errors="surrogatepass")) for text in sorted(plain))
    return b"(?:%s)" % b"|".join((*texts, f"(?i:{escaped})".encode()))
