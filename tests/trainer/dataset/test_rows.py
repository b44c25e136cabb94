"""Rows of files: the same in every kind, and never an unexpected error."""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemtune.datasets.files import text_columns
from gemtune.datasets.files.kinds import KINDS, FileKind, kind_of
from gemtune.datasets.files.wrapped_rows import begin_of_array
from gemtune.datasets.refusal import Refused
from gemtune.errors import StepError
from tests.trainer.dataset.files import as_parquet, written
from trainer.dataset import text_stream
from trainer.dataset.row import MAX_ROW_BYTES
from trainer.dataset.rows import read_rows

PAIRS = [{"prompt": f'Question {n},\n"quoted"\t; ü 🙂', "completion": "[{ }]," * n or "-"} for n in range(7)]
# Python 3.13 and newer name the column of a comma that is too much, and older ones that of what follows it.
OF_COMMA = 8 if sys.version_info >= (3, 13) else 9


def read(content: bytes, name: str, **options: Any) -> list[tuple[int, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return list(read_rows(path, **options))


def error(content: bytes, name: str) -> str:
    with pytest.raises(StepError) as caught:
        read(content, name)
    assert caught.value.code == "bad_dataset"
    assert name in caught.value.message
    assert caught.value.hint
    return caught.value.message


def refused(content: bytes, name: str) -> dict[int, str]:
    return {number: row.reason for number, row in read(content, name) if isinstance(row, Refused)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.suffix)
def test_the_same_rows_come_from_every_kind_of_file(kind: FileKind) -> None:
    assert read(written(PAIRS, kind), f"train{kind.suffix}") == list(enumerate(PAIRS, 1))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
NAMES = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8).filter(lambda name: name.strip() == name)


@settings(max_examples=60)
@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), st.data())
def test_any_texts_are_the_same_in_every_kind_of_file(names: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, TEXT)), min_size=1, max_size=5))
    for kind in KINDS:
        assert read(written(rows, kind), f"train{kind.suffix}") == list(enumerate(rows, 1)), kind


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv"])
@pytest.mark.parametrize("compression", [None, "gz"])
def test_a_byte_order_mark_tells_the_encoding(encoding: str, ending: str, compression: str | None) -> None:
    text = written(PAIRS, FileKind(ending)).decode()
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    content = (mark + text.replace("\r\n", "\n").replace("\n", "\r\n")).encode(encoding)
    name = f"train.{ending}"
    if compression is not None:
        content, name = gzip.compress(content), f"{name}.gz"
    rows = read(content, name)
    assert [row["completion"] for _, row in rows] == [row["completion"] for row in PAIRS]
    kind = kind_of(name)
    assert kind is not None
    assert text_columns.of_text(kind, content) == {"prompt", "completion"}


VIEWED = [{"row_idx": number, "row": row, "truncated_cells": []} for number, row in enumerate(PAIRS)]
ABOUT = {"version": 1.5, "features": [{"name": "prompt", "type": {"_type": "Value", "]": '["'}}], "info": None}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "file",
    [
        {"data": PAIRS},
        ABOUT | {"rows": VIEWED, "num_rows_total": 7, "partial": False},
        {"examples": PAIRS, "description": "}]", **ABOUT},
    ],
    ids=["bare", "viewer", "details"],
)
def test_rows_in_a_field_of_the_only_object_are_those_of_an_array(file: dict[str, Any], indent: int | None) -> None:
    content = json.dumps(file, indent=indent)
    for name, written_file in (
        ("train.json", content.encode()),
        ("train.jsonl", f" \n{content}\n".encode()),
        ("train.json.gz", gzip.compress(content.encode())),
        ("train.json", content.encode("utf-16")),
    ):
        assert read(written_file, name) == list(enumerate(PAIRS, 1))
        kind = kind_of(name)
        assert kind is not None
        assert text_columns.of_text(kind, written_file) == {"prompt", "completion"}


def test_rows_in_a_field_may_be_of_any_format_but_messages() -> None:
    for row in ({"input": "a", "output": "b"}, {"user": "a", "assistant": "b"}, {"messages": [{"role": "user"}]}):
        assert read(json.dumps({"examples": [row, row]}).encode(), "train.json") == [(1, row), (2, row)]


def test_lines_of_the_hubs_viewer_are_the_rows_in_them() -> None:
    cut = [*VIEWED[:2], VIEWED[2] | {"truncated_cells": ["prompt"]}]
    content = "".join(json.dumps(row) + "\n" for row in cut).encode()
    assert read(content, "train.jsonl")[:2] == list(enumerate(PAIRS[:2], 1))
    assert refused(content, "train.jsonl") == {
        3: "the viewer of the Hub has cut off its prompt: download the file itself"
    }
    assert text_columns.of_text(FileKind("jsonl"), content) == {"prompt", "completion"}


@pytest.mark.parametrize(
    "row",
    [
        {"data": []},
        {"data": ["a"]},
        {"items": [{"role": "user", "content": "Hi"}]},
        {"data": [{"from": "human", "value": "Hi"}]},
        {"prompt": "Hi", "examples": [{"a": "b"}]},
        {"title": "a", "examples": [{"a": "b"}], "prompt": "Hi"},
        {"items": [{"id": 1, "from": "human", "value": "Hi"}], "id": 1},
        {"text": "Hi", "row_idx": 1, "row": {"a": "b"}},
        {"row": {"a": "b"}},
    ],
)
def test_rows_with_lists_of_their_own_are_rows(row: dict[str, Any]) -> None:
    content = (json.dumps(row) + "\n").encode() * 2
    assert read(content, "train.jsonl") == [(1, row), (2, row)]


@given(
    st.binary(max_size=40), st.sampled_from([json.dumps(ABOUT | {"rows": VIEWED}).encode(), b'{"data": [{"a": 1}]}'])
)
def test_damaged_objects_with_rows_raise_no_unexpected_error(noise: bytes, content: bytes) -> None:
    for place in (1, 20, len(content) // 2, len(content) - 2):
        for damaged in (content[:place], content[:place] + noise + content[place:], noise + content):
            text_columns.of_text(FileKind("json"), damaged)
            with suppress(StepError):
                read(damaged, "train.json")


@pytest.mark.parametrize(
    "text", [b"[" * 500_000, b'"a":' * 120_000, b'{"a": ' + b" " * 500_000, b'{"a": "' + b"\\" * 499_999]
)
@pytest.mark.timeout(60)  # it takes less than a second in linear time
def test_the_beginning_of_a_file_is_searched_in_linear_time(text: bytes) -> None:
    """Quadratic time would be several minutes (calculated)."""
    assert begin_of_array(b'{"info": ' + text) is None


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            b'{"data": [{"a": "b"}], "test": [{"a": "c"}]}',
            "train.json",
            "has a field 'test' beside its rows, behind row 1",
        ),
        (
            b'{"data": [{"a": "b"}]}\n{"data": [{"a": "c"}]}',
            "train.json",
            "goes on after its rows, and not with the end",
        ),
        (b'{"data": [{"a": "b"}]', "train.json", "goes on after its rows, and not with the end of the object"),
        (b'{"data": [{"a": "b"}', "train.json", "ends within its array, after row 0"),
        ("Hi".encode("utf-16-le"), "train.jsonl", "may be UTF-16, whose byte order mark is missing"),
        (b'\xff\xfe{\0"\0\0\xd8\0\0', "train.jsonl", "not valid UTF-16"),
        (b'[{"a": "b"}', "train.json", "ends within its array, after row 0"),
        (b'[{"a": "b"}, {"a": "b"', "train.json", "ends within its array, after row 1"),
        (b'[{"a": "b"}] [', "train.json", "goes on after the end of its array, behind row 1"),
        (b'[{"a": "b"}]]', "train.json", "goes on after the end of its array"),
        (b'{\n "a": "b"\n}\n', "train.json", "neither JSON lines nor a JSON array"),
        (b'{"a": "b",\n "c": "d"}\n', "train.jsonl", "neither JSON lines nor a JSON array"),
        (b"a,a\n1,2\n", "train.csv", "two columns 'a'"),
        (b"sep=;\na;b\n1;2\n", "train.csv", "is for Excel only (sep=): remove it"),
        (b"a,b\r1,2\r", "train.csv", "with a carriage return alone"),
        (b'"a\n', "train.csv", "does not name its columns"),
        (b"\xffa,b\n1,2\n", "train.csv", "does not name its columns"),
        (b"no gzip", "train.jsonl.gz", "is damaged"),
        (gzip.compress(b"{}\n" * 9000, mtime=0)[:-9], "train.jsonl.gz", "is damaged"),
        (pa.compress(b"{}\n" * 9000, "zstd", asbytes=True)[:-3], "train.jsonl.zst", "is damaged"),
        (as_parquet(a=["x"] * 100)[:-20], "train.parquet", "not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes, name: str, message: str) -> None:
    assert message in error(content, name)


@pytest.mark.parametrize(
    ("content", "name", "reasons"),
    [
        (b'[{"a": 1}, {"a": }, {"a": 2}]', "train.json", {2: "not JSON"}),
        (b'[{"a": 1}, 5, "x", [], {"a": 2}, ]', "train.json", {2: "not a JSON object", 3: "not a", 4: "not", 6: "not"}),
        (b'[1}, {"a": 2}]', "train.json", {1: "not JSON"}),
        (
            b'[{"a": 1,}, ]',
            "train.json",
            {1: f"not JSON (line 1, column {OF_COMMA}): there may be a comma", 2: "not JSON (line"},
        ),
        (
            b'[[{"role": "user"}]]',
            "train.json",
            {1: 'not a JSON object: write a list of messages as {"messages": […]}'},
        ),
        (b'{"a": 1},\n', "train.jsonl", {1: "not JSON (line 1, column 9): remove the comma behind it"}),
        (b"{'a': 1}\n", "train.jsonl", {1: "not JSON (line 1, column 2): it is written as Python prints it"}),
        (b'{"a": 1}\n\n{\n\xff\n', "train.jsonl", {3: "not JSON", 4: "not UTF-8"}),
        (b"a,b\n1\n1,2,3\n1,2\n\n", "train.csv", {1: "1 cells", 2: "3 cells"}),
        (b'a,b\n1,"2"x\n1,2\n\xff,1\n1,"open\n', "train.csv", {1: "not valid CSV", 3: "not UTF-8", 4: "not valid CSV"}),
    ],
)
def test_a_broken_row_is_refused_by_its_number(content: bytes, name: str, reasons: dict[int, str]) -> None:
    assert {number: reason[: len(reasons[number])] for number, reason in refused(content, name).items()} == reasons


GIANT = b"x" * 12_000_000


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (b'{"a": "1"}\n{"a": "', b'"}\n{"a": "2"}\n', "train.jsonl"),
        (b'[{"a": "1"}, {"a": "', b'"}, {"a": "2"}]', "train.json"),
        (b"a\n1\n", b"\n2\n", "train.csv"),
        (b'a\n1\n"\n', b'\n\n"\n2\n', "train.csv"),
        (b'a\n1\n5" ', b"\n2\n", "train.csv"),
    ],
)
def test_a_giant_row_is_refused_without_being_in_memory(tmp_path: Path, before: bytes, after: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(before + GIANT + after)
    tracemalloc.start()
    first, giant, last = read_rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (first, last) == ((1, {"a": "1"}), (3, {"a": "2"}))
    assert giant == (2, Refused(f"longer than {MAX_ROW_BYTES} bytes"))
    assert peak < 6 * MAX_ROW_BYTES


def test_a_row_of_exactly_the_limit_is_read_and_a_longer_one_refused() -> None:
    start, end = b'{"prompt": "Hi", "completion": "', b'"}'
    fitting = start + b"x" * (MAX_ROW_BYTES - len(start) - len(end)) + end
    for name, content in (
        ("train.jsonl", fitting + b"\n" + fitting + b" \n" + fitting),
        ("train.json", b"[" + fitting + b"," + fitting + b" ," + fitting + b"]"),
    ):
        assert [isinstance(row, Refused) for _, row in read(content, name)] == [False, True, False]


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_gives_rows_reasons_or_an_error_of_the_dataset(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    content = bytearray(written(PAIRS, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    rows: list[tuple[int, Any]] = []
    codes: list[str] = []
    try:
        rows = read(bytes(content), f"train{kind.suffix}")
    except StepError as damaged:
        codes.append(damaged.code)
    assert set(codes) <= {"bad_dataset"}
    assert all(row.reason.encode() if isinstance(row, Refused) else isinstance(row, dict) for _, row in rows)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(['{"a": "\\\\"}', '{"a": ["]", {}]}', "5", '"\\""', "", " ", "[[]]", '{"a"', "}"])))
def test_an_array_in_chunks_of_any_size_has_the_same_elements(elements: list[str]) -> None:
    """Feed the array byte by byte, and as a whole."""
    from gemtune.datasets.files.json_array import ArraySplitter

    content = ",".join(elements).encode() + b"]"
    whole = list(ArraySplitter(1000).elements(content))
    splitter = ArraySplitter(1000)
    assert [element for byte in content for element in splitter.elements(bytes([byte]))][: len(whole)] == whole


def test_a_file_that_expands_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(b'{"a": "1"}\n' * 100_000)
    monkeypatch.setattr(text_stream, "MAX_RATIO", 10)
    assert len(read(content, "train.jsonl.gz")) == 100_000
    monkeypatch.setattr(text_stream, "MIN_UNPACKED", 1000)
    assert "expands to more than" in error(content, "train.jsonl.gz")


def test_an_empty_cell_and_a_null_are_fields_that_a_row_does_not_have() -> None:
    assert read(b"prompt,completion,system\nHi,Captain,\n", "train.csv") == [
        (1, {"prompt": "Hi", "completion": "Captain"})
    ]
    content = as_parquet(prompt=["Hi"], messages=pa.array([None], pa.string()))
    assert read(content, "train.parquet") == [(1, {"prompt": "Hi"})]


def test_what_the_first_line_of_a_table_has_most_of_separates_its_cells() -> None:
    for separator, other in (",;", ";,", "\t;"):
        names, cells = ("prompt", "completion", f"why{other} not", "x"), ("a", "b", "", "")
        content = f"{separator.join(names)}\n{separator.join(cells)}\n"
        assert read(content.encode(), "train.csv") == [(1, {"prompt": "a", "completion": "b"})]


def test_quotes_behind_a_space_refuse_their_row() -> None:
    (_, spaced), (_, cut), (_, doubled) = read(b'a,b\n"x", "y"\n"x", "y, z"\nx," ""y"" he said"\n', "train.csv")
    assert spaced.reason.startswith("a cell has a space in front of its double quotes")
    assert cut.reason.endswith("a cell with a separator needs double quotes, with no space in front of them")
    assert doubled == {"a": "x", "b": ' "y" he said'}


def test_lines_of_separators_alone_are_no_rows() -> None:
    pair = {"prompt": "a", "completion": "b"}
    assert read(b"prompt,completion\na,b\n,\na,b\n,\n,\n", "train.csv") == [(1, pair), (3, pair)]


def test_a_damaged_first_line_is_refused_alone_if_a_row_follows() -> None:
    (_, first), second = read(b'{"a": "b",\n{"a": "c"}\n', "train.jsonl")
    assert isinstance(first, Refused)
    assert second == (2, {"a": "c"})


def test_semicolons_separate_in_a_table_and_a_column_without_a_name_has_its_number() -> None:
    assert read(b";prompt;completion\n0;Hi, you;1,5\n", "train.csv") == [
        (1, {"column 1": "0", "prompt": "Hi, you", "completion": "1,5"})
    ]


def text_of_bytes(*cells: bytes) -> pa.Array:
    """Return a text column of unchecked bytes, as some writers produce."""
    binary = pa.array(cells, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(cells), binary.buffers())


def test_broken_text_in_parquet_affects_only_its_row() -> None:
    content = as_parquet(prompt=text_of_bytes(b"Hi", b"\xff\xfe", b"Ho"), completion=["x", "y", "z"])
    assert refused(content, "train.parquet") == {2: "its column 'prompt' is not UTF-8 text"}


def test_times_in_parquet_become_texts_even_beyond_the_calendar() -> None:
    times = pa.array([0, 2**62], pa.timestamp("us"))
    assert [row["at"] for _, row in read(as_parquet(at=times), "train.parquet")] == ["1970-01-01T00:00:00", str(2**62)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.layout != "parquet"], ids=lambda kind: kind.suffix)
def test_the_columns_that_a_request_is_checked_by_are_those_that_rows_have(kind: FileKind) -> None:
    content = written(PAIRS, kind)
    columns = text_columns.of_text(kind, content)
    assert columns == (None if kind.compression == "zst" else {"prompt", "completion"})
    for cut in range(0, len(content), 7):
        assert text_columns.of_text(kind, content[:cut]) in (None, {"prompt", "completion"})


def test_rows_of_a_large_file_are_read_one_by_one(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "x" * 1000, "completion": "y" * 1000})
    for name, content in (("a.jsonl", f"{row}\n" * 20_000), ("a.json", f"[{','.join([row] * 20_000)}]")):
        path = tmp_path / name
        path.write_text(content)
        tracemalloc.start()
        count = sum(1 for _ in read_rows(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 20_000
        assert peak < 4 * 1024 * 1024
