"""Rows of a file of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gemtune.datasets.files.kinds import LAYOUTS, kind_of
from trainer.dataset.json_rows import json_rows
from trainer.dataset.parquet_rows import parquet_rows
from trainer.dataset.row import MAX_MEDIA_ROW_BYTES, MAX_ROW_BYTES, Row, bad_dataset
from trainer.dataset.table_rows import table_rows
from trainer.dataset.text_stream import open_text


def read_rows(path: Path, *, with_media: bool = False, named: str | None = None) -> Iterator[Row]:
    """Yield (number, row) from a file; its name tells its kind.

    Numbers count from 1. In a file of JSON lines, a row has the number of its line. The rows are in memory one by one.
    with_media: rows may be up to MAX_MEDIA_ROW_BYTES long. named: the file in error messages. Raises StepError
    `bad_dataset`.
    """
    named, kind = named or path.name, kind_of(path.name)
    longest = MAX_MEDIA_ROW_BYTES if with_media else MAX_ROW_BYTES
    if kind is None:
        endings = ", ".join(f".{ending}" for ending in LAYOUTS)
        hint = f"names of such files end in {endings}; save a spreadsheet as CSV UTF-8"
        raise bad_dataset(f"{named} is no file of rows", hint=hint)
    if kind.layout == "parquet":
        yield from parquet_rows(path, longest, named=named)
        return
    with open_text(path, kind.compression, named=named) as stream:
        if kind.layout == "table":
            yield from table_rows(stream, longest, named=named, tabs=kind.ending == "tsv")
        else:
            yield from json_rows(stream, longest, named=named)
