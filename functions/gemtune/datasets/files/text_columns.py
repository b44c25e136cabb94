"""Columns of JSON, CSV and TSV files, read from their first bytes."""

from __future__ import annotations

import codecs
import zlib

from gemtune.datasets.files import columns
from gemtune.datasets.files.json_array import BLANKS, ArraySplitter
from gemtune.datasets.files.kinds import FileKind
from gemtune.datasets.files.table_header import BadHeader, read_header
from gemtune.datasets.files.text_encoding import mark_of
from gemtune.datasets.files.wrapped_rows import begin_of_array
from gemtune.untrusted import MAX_BYTES


def of_text(kind: FileKind, start: bytes) -> frozenset[str] | None:
    """Return the keys with a value in the first row, or a table's columns.

    start: the first bytes of the file. None if they do not tell the columns; zstd is not read here, since Python has
    no decompressor for it before 3.14.
    """
    text = _decompressed(kind, start)
    if text is None:
        return None
    mark = mark_of(text)
    if mark.encoding != "utf-8":  # bytes that are not UTF-8 stay, so that their row is not taken for a sound one
        text = text[len(mark.content) :].decode(mark.encoding, errors="ignore").encode()
    text = text.removeprefix(codecs.BOM_UTF8)
    if kind.layout == "table":
        line, ended, _ = text.partition(b"\n")
        try:
            return frozenset(read_header(line, tabs=kind.ending == "tsv")[0]) if ended else None
        except BadHeader:
            return None
    begin = begin_of_array(text)
    return columns.of_jsonl(text.lstrip(BLANKS)) if begin is None else _of_array(text[begin:])


def _of_array(content: bytes) -> frozenset[str] | None:
    first = next(ArraySplitter(len(content)).elements(content), None)
    return None if first is None else columns.of_jsonl(first.replace(b"\r", b"").replace(b"\n", b" "))


def _decompressed(kind: FileKind, start: bytes) -> bytes | None:
    """Return the first bytes of the decompressed file; None if unknown."""
    if kind.compression != "gz":
        return start if kind.compression is None else None
    try:
        return zlib.decompressobj(wbits=31).decompress(start, MAX_BYTES)
    except zlib.error:
        return None
