"""Columns that a file cannot have, compared with what its rows have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemtune.client import uploads
from gemtune.client.errors import NoSuchColumn
from gemtune.datasets.files.absent_columns import lacks

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ("prompt", "a/b", 'a"b', "a\\b", "é", "😀", "\n")
)


def has_key(value: Any, name: str) -> bool:
    """Return whether an object has a key, at any depth."""
    if isinstance(value, dict):
        return name in value or any(has_key(inner, name) for inner in value.values())
    return isinstance(value, list) and any(has_key(inner, name) for inner in value)


VALUES = NAMES | st.dictionaries(NAMES, st.none(), max_size=2) | st.lists(NAMES, max_size=2)


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=1, max_size=3),
    NAMES,
    st.booleans(),
)
def test_a_column_is_absent_from_json_if_no_object_has_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], column: str, ascii_only: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "rows.jsonl"
    text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    file.write_bytes(text.encode())
    for name in (column, *(name for row in rows for name in row)):
        assert lacks(file, name) is not has_key(rows, name)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (rb'{"\u0070rompt" : 1}', "prompt"),
        (rb'{"\u00E9": 1}', "\u00e9"),
        (rb'{"\uD83D\uDE00": 1}', "\U0001f600"),
        (rb'{"a\/b": 1}', "a/b"),
        ('\ufeff[\n{"prompt"\n: 1}]'.encode(), "prompt"),
        ('{"a": 1}'.encode("utf-16"), "b"),
        (b"", "b"),
    ],
)
def test_a_key_is_found_however_it_is_written(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    assert not lacks(tmp_path / "rows.json", name)


def test_a_table_has_the_columns_of_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('Question;"Our; answer"\nprompt;b\n')
    assert (lacks(file, "Question"), lacks(file, "Our; answer"), lacks(file, "prompt")) == (False, False, True)
    file.write_text("Question,prompt")  # its first line may go on
    assert not lacks(file, "x")


def test_what_cannot_be_told_is_not_absent(tmp_path: Path) -> None:
    table = {"rows.csv.gz": b"a,b\n1,2\n", "rows.jsonl.gz": b'{"a": 1}\n'}
    for name, content in table.items():
        (tmp_path / name).write_bytes(gzip.compress(content))
    assert [lacks(tmp_path / name, "x") for name in table] == [True, False]
    pq.write_table(pa.table({"a": [1]}), tmp_path / "rows.parquet")
    pq.write_table(pa.table({"row_idx": [1], "row": [{"x": 1}]}), tmp_path / "viewer.parquet")
    assert [lacks(tmp_path / f"{name}.parquet", "x") for name in ("rows", "viewer")] == [True, False]


def test_all_files_of_a_dataset_have_to_lack_a_column(tmp_path: Path) -> None:
    files = uploads.LocalDataset({"train.csv": tmp_path / "a.csv", "eval.jsonl": tmp_path / "b.jsonl"})
    (tmp_path / "a.csv").write_text("question,answer\n1,2\n")
    (tmp_path / "b.jsonl").write_text('{"x": 1}\n')
    for columns in ({"prompt": "question", "answer": None, "nothing": None}, {"prompt": "x"}, None, "prompt", {"a": 5}):
        uploads.check_columns(files, columns)
    with pytest.raises(NoSuchColumn) as error:
        uploads.check_columns(files, {"question": "prompt"})
    assert (
        error.value.message == "no row has the column prompt for the field question; the first row has answer, question"
    )
    assert error.value.hint == "if question is the prompt, set dataset_columns to {prompt: question}"
