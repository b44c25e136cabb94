"""Columns read from a few bytes of a file, compared with what pyarrow reads."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemtune.datasets.files import columns
from gemtune.datasets.files.columns import of_jsonl, of_parquet

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0."), min_size=1, max_size=20)
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
VALUES: tuple[Any, ...] = ("text", 1, 0.5, True, None, ["a"], MESSAGES, {"bytes": b"x", "path": None}, [[1, 2], []])


def parquet(table: pa.Table, **options: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(table, target, **options)
    return target.getvalue()


def read(content: bytes) -> frozenset[str] | None:
    return of_parquet(len(content), lambda start, length: content[start : start + length])


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(NAMES, st.sampled_from(VALUES), min_size=1, max_size=40))
def test_columns_of_parquet_match_pyarrow(row: dict[str, Any]) -> None:
    table = pa.Table.from_pylist([row, row])
    assert read(parquet(table)) == set(table.column_names)


def test_a_footer_larger_than_the_limit_has_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.Table.from_pylist([{f"column {number}": number for number in range(300)}] * 10)
    content = parquet(table, row_group_size=1)
    assert read(content) == set(table.column_names)
    monkeypatch.setattr(columns, "FOOTER_BYTES", 1000)
    assert read(content) is None


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_bytes_raise_no_error(data: st.DataObject) -> None:
    content = bytearray(parquet(pa.Table.from_pylist([{"prompt": "a", "chosen": MESSAGES, "rejected": None}])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(max(0, len(content) - 700), len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut]), bytes(content[cut:])):
        result = read(damaged)
        assert result is None or isinstance(result, frozenset)


@pytest.mark.parametrize("footer", [b"\x19" * 200_000, b"\x15" + b"\xff" * 200_000, b"\x1c" * 200_000, b"\x19\xf9" * 9])
def test_a_hostile_footer_has_no_columns(footer: bytes) -> None:
    """Read footers of nested lists, an endless number and nested structs."""
    assert read(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1") is None


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b'{"prompt": "a", "answer": "b"}\n{"messages": []}\n', {"prompt", "answer"}),
        (b'\xef\xbb\xbf{"prompt": "a"}', {"prompt"}),
        (b'\r\n\n  \n{"prompt": "a", "answer": null}\r\n', {"prompt"}),
        (b'no JSON\n[1]\n{"prompt": "a"}\n', {"prompt"}),
        (b'{"prompt": "a row that is lon', None),
        (b"", None),
        (b"[" * 5000, None),
        (b'{"prompt": "\xff"}\n', None),
    ],
)
def test_columns_of_jsonl_are_the_keys_of_its_first_row(start: bytes, expected: set[str] | None) -> None:
    assert of_jsonl(start) == expected
