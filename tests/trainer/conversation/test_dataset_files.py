"""Rows from files: any content gives a row or a reason, never an exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemtune.errors import StepError
from trainer.conversation.dataset_files import MAX_ROW_BYTES, Refused, rows
from trainer.conversation.messages import conversation

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Captain"}


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "train.parquet")
    return folder / "train.parquet"


def text_of_bytes(*cells: bytes) -> pa.Array:
    """Return a text column of unchecked bytes, as some writers produce."""
    binary = pa.array(cells, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(cells), binary.buffers())


def reason(row: Any) -> str:
    refused = conversation(row)
    assert isinstance(refused, Refused)
    return refused.reason


ANY_TEXT = st.text(st.characters(), max_size=5)  # including lone surrogates
NAMES = ANY_TEXT | st.sampled_from(["messages", "prompt", "completion", "role", "content", "type", "text", "answer"])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, JSON))
def test_any_json_object_gives_a_conversation_or_a_printable_reason(row: dict[str, Any]) -> None:
    result = conversation(row)
    if isinstance(result, Refused):
        assert result.reason.encode()
    else:
        assert any(message["role"] == "assistant" for message in result)


@given(st.lists(st.fixed_dictionaries({"role": JSON, "content": JSON}), max_size=3))
def test_any_message_is_accepted_or_refused(messages: list[dict[str, Any]]) -> None:
    result = conversation({"messages": messages})
    assert not isinstance(result, Refused) or result.reason.encode()


def test_a_field_name_with_a_lone_surrogate_can_be_reported() -> None:
    assert reason({"\ud800": 1}) == r"supervised training needs messages, or prompt and completion; the row has \ud800"


@pytest.mark.parametrize("part", [{"type": ["text"], "text": "x"}, {"type": {}}, ["x"], None, {"type": "text"}])
def test_a_content_list_of_other_parts_is_refused(part: Any) -> None:
    assert "neither {type: text, text} nor" in reason({"messages": [USER, {"role": "assistant", "content": [part]}]})


def test_a_role_that_is_not_text_is_refused() -> None:
    assert reason({"messages": [{"role": {"a": []}, "content": "x"}]}) == "a role is not a text"


def test_lists_of_structs_are_read_as_messages(tmp_path: Path) -> None:
    as_list = [USER | {"content": [{"type": "text", "text": "Hi"}]}]
    path = parquet(tmp_path, prompt=[as_list], completion=["Captain"], messages=pa.array([None], pa.string()))
    ((number, row),) = rows(path)
    assert number == 1
    assert isinstance(row, dict)
    assert conversation(row) == [USER, ANSWER]


def test_odd_values_in_unused_columns_do_not_matter(tmp_path: Path) -> None:
    beyond_any_calendar = pa.array([2**62], pa.timestamp("us"))
    path = parquet(tmp_path, prompt=["Hi"], completion=["Captain"], at=beyond_any_calendar, note=text_of_bytes(b"\xff"))
    ((_, row),) = rows(path)
    assert row == {"prompt": "Hi", "completion": "Captain", "at": None, "note": None}


def test_a_parquet_file_without_usable_columns_has_only_refused_rows(tmp_path: Path) -> None:
    entries = list(rows(parquet(tmp_path, text=["a", "b"], label=[1, 2])))
    assert [number for number, _ in entries] == [1, 2]
    assert all(reason(row).endswith("has label, text") for _, row in entries)


def test_broken_text_in_parquet_affects_only_its_row(tmp_path: Path) -> None:
    path = parquet(tmp_path, prompt=text_of_bytes(b"Hi", b"\xff\xfe", b"Ho"), completion=["x", "y", "z"])
    assert [isinstance(row, Refused) for _, row in rows(path)] == [False, True, False]


def test_a_row_of_exactly_the_limit_is_read_and_a_longer_one_refused(tmp_path: Path) -> None:
    start, end = b'{"prompt": "Hi", "completion": "', b'"}'
    fitting = start + b"x" * (MAX_ROW_BYTES - len(start) - len(end)) + end
    path = tmp_path / "train.jsonl"
    path.write_bytes(fitting + b"\n" + fitting + b" \n" + fitting)
    assert [isinstance(row, Refused) for _, row in rows(path)] == [False, True, False]


def test_a_parquet_file_cut_short_fails(tmp_path: Path) -> None:
    path = parquet(tmp_path, prompt=["Hi"] * 100, completion=["x"] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StepError) as caught:
        list(rows(path))
    assert caught.value.code == "bad_dataset"
