"""Conversations of rows: any row gives messages or a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gemtune.datasets.conversation import Conversation, PlainText
from gemtune.datasets.formats import table
from gemtune.datasets.refusal import Refused
from tests.conversations import conversation_of
from tests.trainer.dataset.files import as_parquet
from trainer.dataset.rows import read_rows

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Captain"}


def reason(row: Any) -> str:
    refused = table.read(row)
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
@example({"text": "0"})
@example({"text": 0.0})
@example({"TEXT": 0.5})
def test_any_json_object_gives_a_conversation_or_a_printable_reason(row: dict[str, Any]) -> None:
    result = table.read(row)
    if isinstance(result, Refused):
        assert result.reason.encode()
    elif isinstance(result.content, PlainText):
        # Names of fields may be in any case, and a number in a column of texts is its digits.
        assert result.content.text in [str(value) for name, value in row.items() if name.lower() == "text"]
    else:
        assert isinstance(result.content, Conversation)
        assert any(turn.role == "assistant" for turn in result.content.turns)


@given(st.lists(st.fixed_dictionaries({"role": JSON, "content": JSON}), max_size=3))
def test_any_message_is_accepted_or_refused(messages: list[dict[str, Any]]) -> None:
    result = table.read({"messages": messages})
    assert not isinstance(result, Refused) or result.reason.encode()


def test_a_field_name_with_a_lone_surrogate_can_be_reported() -> None:
    assert r"the row has \ud800: if these are" in reason({"\ud800": 1})


@pytest.mark.parametrize("part", [{"type": ["text"], "text": "x"}, {"type": {}}, ["x"], None, {"type": "text"}])
def test_a_content_list_of_other_parts_is_refused(part: Any) -> None:
    assert "neither {type: text, text} nor" in reason({"messages": [USER, {"role": "assistant", "content": [part]}]})


def test_a_role_that_is_not_text_is_refused() -> None:
    assert reason({"messages": [{"role": {"a": []}, "content": "x"}]}) == "turn 1: a role is not a text"


def test_lists_of_structs_are_read_as_messages(tmp_path: Path) -> None:
    as_list = [USER | {"content": [{"type": "text", "text": "Hi"}]}]
    (tmp_path / "train.parquet").write_bytes(
        as_parquet(prompt=[as_list], completion=["Captain"], messages=pa.array([None], pa.string()))
    )
    ((number, row),) = read_rows(tmp_path / "train.parquet")
    assert number == 1
    assert isinstance(row, dict)
    assert conversation_of(row).messages() == [USER | {"content": as_list[0]["content"]}, ANSWER]
