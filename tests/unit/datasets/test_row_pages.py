"""Rows of a text file by pages, compared with the file read as a whole."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest

from gemtune.datasets.files import row_pages
from gemtune.datasets.files.row_pages import Place, RawRow, rows_from
from trainer.dataset.table_rows import table_rows


def read(content: bytes, *, delimiter: bytes | None = None, per_page: int = 3) -> list[RawRow]:
    """Read all rows, with a new reader after every few of them."""
    rows: list[RawRow] = []
    place = Place()
    while True:
        page = []
        for row in rows_from(lambda start, length: content[start : start + length], place, delimiter=delimiter):
            page.append(row)
            place = row.after
            if len(page) == per_page:
                break
        rows += [row for row in page if row.number]
        if not page or (place.offset >= len(content) and not place.within):
            return rows


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_lines_have_the_numbers_and_contents_of_the_file(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_pages, "CHUNK", chunk)
    lines = [b"", b'{"a": "\xc3\xa4"}', b"  ", *(b'{"n": %d}' % number for number in range(40)), b'{"last": 1}']
    content = b"\n".join(lines)
    expected = [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    rows = read(content)
    assert [(row.number, json.loads(row.content or b"")) for row in rows] == expected


@pytest.mark.parametrize("chunk", [1, 13, 10_000])
def test_rows_of_a_table_end_where_the_csv_library_ends_them(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_pages, "CHUNK", chunk)
    generator, text = random.Random(3), io.StringIO(newline="")
    writer = csv.writer(text)
    cells = ["plain", 'a "quoted" word', "two\nlines", "comma, here", "", '"', "\n\n"]
    for _ in range(60):
        writer.writerow([generator.choice(cells) for _ in range(3)])
    content = text.getvalue()
    expected = [row for row in csv.reader(io.StringIO(content, newline="")) if row]
    rows = read(content.encode(), delimiter=b",")
    decoded = [next(csv.reader(io.StringIO((row.content or b"").decode(), newline=""))) for row in rows]
    assert decoded == expected
    assert [row.number for row in rows] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("chunk", [1, 5, 10_000])
def test_any_bytes_of_a_table_are_the_rows_that_training_reads(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_pages, "CHUNK", chunk)
    generator = random.Random(5)
    for number in range(400):
        body = b"".join(generator.choices([b'"', b'""', b",", b"\n", b"\r\n", b" ", b'5" x', b"\xe2\x80\xa8"], k=12))
        trained = list(table_rows(io.BufferedReader(io.BytesIO(b"a,b\n" + body)), 1000, named="t.csv", tabs=False))
        rows = read(body, delimiter=b",", per_page=1 + number % 3)
        assert [row.number for row in rows] == [number for number, _ in trained], body
        for row, (_, expected) in zip(rows, trained, strict=True):
            text = io.StringIO((row.content or b"").decode(), newline="")
            if isinstance(expected, dict):
                (cells,) = csv.reader(text, strict=True)
                assert {name: cell for name, cell in zip("ab", cells, strict=True) if cell} == expected


@pytest.mark.parametrize("table", [False, True])
def test_a_long_row_is_named_once_and_skipped_over_several_pages(table: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_pages, "CHUNK", 50)
    monkeypatch.setattr(row_pages, "LONGEST_ROW", 100)
    monkeypatch.setattr(row_pages, "MOST_BYTES", 300)
    long_row = b'"' + b"x\n" * 1000 + b'"' if table else b"x" * 2000
    rows = read(b"first\n" + long_row + b"\nlast\n", delimiter=b"," if table else None)
    assert [(row.number, row.content) for row in rows] == [(1, b"first\n"), (2, None), (3, b"last\n")]
