"""Kinds of values: the same row gives the same result in every file."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gemtune.datasets.files.kinds import KINDS, FileKind
from gemtune.datasets.formats import table
from gemtune.datasets.refusal import Refused
from gemtune.datasets.rl.read import read_labelled, read_pair, read_question
from gemtune.datasets.row_options import ReadOptions
from tests.trainer.dataset.files import as_parquet, written
from trainer.dataset.rows import read_rows

Row = dict[str, Any]
OPTIONS = ReadOptions(with_pictures=True)
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy", "weight": 1}]
PARTS = [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Ahoy"}]}]
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}},
}
CALL = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1, "b": [1.5, 2.5], "c": {"d": "x"}}}]}
CALLED = [TURNS[0], CALL, {"role": "tool", "content": "7"}, TURNS[1]]


def answer(path: str = "answer") -> Callable[[Row], Any]:
    return lambda row: read_question(row, OPTIONS, [path])


READERS: Mapping[str, Callable[[Row], Any]] = {
    "SFT": lambda row: table.read(row, OPTIONS),
    "DPO": lambda row: read_pair(row, OPTIONS),
    "KTO": lambda row: read_labelled(row, OPTIONS),
    "GRPO": answer(),
    "verl": answer("reward_model.ground_truth"),
}
ROWS: list[tuple[str, Row]] = [
    ("SFT", {"prompt": "Hi", "completion": 5}),
    ("SFT", {"prompt": 1.5, "completion": "x", "system": 7, "score": 0.5}),
    ("SFT", {"instruction": 3, "input": 4, "output": 12, "history": [["a", "b"]]}),
    ("SFT", {"question": "Hi", "answer": '{"a": 1}', "enable_thinking": True}),
    ("SFT", {"prompt": "Hi", "completion": "[1, 2]", "chat_template_kwargs": {"enable_thinking": False}}),
    ("SFT", {"messages": TURNS, "metadata": {"a": [1, 2.5, None]}}),
    ("SFT", {"messages": CALLED, "tools": [TOOL], "images": ["a.png"]}),
    ("SFT", {"messages": TURNS, "image": {"path": "a.png"}}),
    ("SFT", {"messages": TURNS, "system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}]}),
    ("SFT", {"messages": [{"role": role, "content": [{"type": "text", "text": "Hi"}]} for role in ("user", "model")]}),
    ("SFT", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ahoy"}]}),
    ("SFT", {"conversations": TURNS}),
    ("SFT", {"contents": PARTS, "systemInstruction": {"parts": [{"text": "Be brief"}]}}),
    ("SFT", {"text": "Once", "id": 3, "metadata": {"score": 1.5}}),
    ("DPO", {"prompt": "Hi", "chosen": {"role": "assistant", "content": "Ahoy"}, "rejected": [TURNS[1]]}),
    ("DPO", {"prompt": "Hi", "chosen": 4, "rejected": 5, "score_chosen": 2.5}),
    ("DPO", {"input": {"messages": TURNS[:1]}, "preferred_output": TURNS[1:], "non_preferred_output": CALLED[3:]}),
    (
        "DPO",
        {
            "contents": PARTS[:1],
            "completions": [{"score": 1, "completion": PARTS[1]}, {"score": 2.5, "completion": PARTS[1]}],
        },
    ),
    *(("KTO", {"prompt": "Hi", "completion": "Ahoy", "label": label}) for label in (True, False, 1, 0, 1.0, 0.0)),
    ("KTO", {"messages": TURNS, "label": True}),
    *(("GRPO", {"prompt": "Hi", "answer": value}) for value in (7, -1.5, "7", 2**63 - 1)),
    ("verl", {"prompt": TURNS[:1], "reward_model": {"ground_truth": "7", "style": "rule"}}),
]
REFUSED: list[tuple[str, Row]] = [
    ("SFT", {"prompt": "Hi", "answer": 5}),
    ("SFT", {"messages": TURNS[:1]}),
    ("SFT", {"messages": TURNS, "mood": 1}),
    ("KTO", {"prompt": "Hi", "completion": "Ahoy", "label": 0.5}),
    ("DPO", {"prompt": "Hi", "chosen": 4}),
]


def read(content: bytes, name: str, tmp_path: Path) -> Row | Refused:
    path = tmp_path / name
    path.write_bytes(content)
    ((_, row),) = read_rows(path)
    return row


def result(method: str, row: Row | Refused) -> Any:
    return row.reason if isinstance(row, Refused) else READERS[method](row)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.suffix)
def test_the_same_row_gives_the_same_result_in_every_kind_of_file(kind: FileKind, tmp_path: Path) -> None:
    for method, row in (*ROWS, *REFUSED):
        expected = result(method, row)
        assert isinstance(expected, Refused) is ((method, row) in REFUSED), expected
        assert result(method, read(written([row], kind), f"a{kind.suffix}", tmp_path)) == expected


BY_FIELD = {"role": ["user", "assistant"], "content": ["Hi", "Ahoy"]}
SPOKEN_BY_FIELD = {"from": ["human", "gpt"], "value": ["Hi", "Ahoy"]}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.suffix)
def test_messages_as_one_list_per_field_are_messages(kind: FileKind, tmp_path: Path) -> None:
    """Read them as the library datasets stores a Sequence of objects."""
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]
    answer_by_field = {name: values[1:] for name, values in BY_FIELD.items()}
    pair = {"prompt": "Hi", "chosen": chat[1:], "rejected": chat[1:]}
    for method, row, plain in (
        ("SFT", {"messages": BY_FIELD}, {"messages": chat}),
        ("SFT", {"conversations": BY_FIELD}, {"messages": chat}),
        ("SFT", {"conversations": SPOKEN_BY_FIELD}, {"messages": chat}),
        ("DPO", pair | {"chosen": answer_by_field}, pair),
    ):
        content = written([row], kind)
        read_row, expected = result(method, read(content, f"a{kind.suffix}", tmp_path)), READERS[method](plain)
        assert not isinstance(read_row, Refused), read_row
        assert read_row.content == expected.content
    uneven = {"messages": BY_FIELD | {"content": ["Hi"]}}
    assert READERS["SFT"](uneven).reason == "messages is not a list of messages"


@pytest.mark.parametrize("header", ["", "Unnamed: 0"])
def test_numbers_of_rows_that_libraries_write_are_counted(header: str, tmp_path: Path) -> None:
    row = read(f"{header},prompt,completion\n0,Hi,Ahoy\n".encode(), "train.csv", tmp_path)
    assert result("SFT", row).unread_fields == (header or "column 1",)


LABELLED = {"prompt": "Hi", "completion": "Ahoy"}
CALLS = pa.list_(pa.struct([("name", pa.string()), ("arguments", pa.map_(pa.string(), pa.float64()))]))
TURN = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", CALLS)])
# Values that Parquet has and JSON does not, and what they are in a file of JSON.
IN_PARQUET: list[tuple[str, str, pa.Array, Any]] = [
    ("KTO", "label", pa.array([Decimal("1")], pa.decimal128(3, 0)), 1),
    ("KTO", "label", pa.array([Decimal("0.0")], pa.decimal256(50, 1)), 0),
    ("GRPO", "answer", pa.array([Decimal("2.50")]), "2.50"),
    ("GRPO", "answer", pa.array([Decimal("12345678901234567890.12")]), "12345678901234567890.12"),
    ("GRPO", "answer", pa.array([np.float16(1.5)], pa.float16()), 1.5),
    ("GRPO", "answer", pa.array([0.1], pa.float32()), 0.1),
    ("GRPO", "answer", pa.array([0.1], pa.float16()), 0.1),
    ("GRPO", "answer", pa.array([0.1], pa.float32()).dictionary_encode(), 0.1),
    (
        "verl",
        "reward_model",
        pa.array([{"ground_truth": 0.7}], pa.struct([("ground_truth", pa.float32())])),
        {"ground_truth": 0.7},
    ),
    ("GRPO", "answer", pa.array([date(2024, 5, 1)]), "2024-05-01"),
    ("GRPO", "answer", pa.array([datetime(2024, 5, 1, 3)]), "2024-05-01T03:00:00"),
    ("GRPO", "answer", pa.array([uuid.UUID(int=1).bytes], pa.uuid()), str(uuid.UUID(int=1))),
    ("GRPO", "answer", pa.array([b"na\xc3\xafve"]), "naïve"),
    ("GRPO", "answer", pa.array(["7"]).dictionary_encode(), "7"),
    ("GRPO", "answer", pa.array([b"\xff\xfe"]), True),
    ("GRPO", "answer", pa.array([math.nan]), None),
    ("verl", "reward_model", pa.array([{"ground_truth": Decimal("2.5")}]), {"ground_truth": 2.5}),
    ("SFT", "messages", pa.array([json.dumps(TURNS).encode()], pa.large_binary()), TURNS),
    ("SFT", "messages", pa.array([[{**turn, "weight": Decimal(1)} for turn in TURNS]]), [TURNS[0], TURNS[1]]),
    ("SFT", "messages", pa.array([[{**turn, "weight": math.nan} for turn in TURNS]]), "its weight"),
    (
        "SFT",
        "messages",
        pa.array(
            [[TURNS[0], {**CALL, "tool_calls": [{"name": "f", "arguments": [("a", 1.0)]}]}, *CALLED[2:]]],
            pa.list_(TURN),
        ),
        [
            TURNS[0],
            {**CALL, "tool_calls": [{"name": "f", "arguments": {"a": 1.0}}]},
            CALLED[2],
            {**TURNS[1], "weight": None},
        ],
    ),
]


@pytest.mark.parametrize(("method", "column", "values", "value"), IN_PARQUET)
def test_values_that_only_parquet_has_mean_what_json_can_say(
    method: str, column: str, values: pa.Array, value: Any, tmp_path: Path
) -> None:
    others = {"messages": {}, "label": LABELLED}.get(column, {"prompt": TURNS[:1]})
    content = as_parquet(**{name: [other] for name, other in others.items()} | {column: values})
    row = read(content, "train.parquet", tmp_path)
    read_row, expected = result(method, row), result(method, {**others, column: value})
    if isinstance(expected, Refused):
        assert isinstance(read_row, Refused)
    else:
        assert read_row == expected


@pytest.mark.parametrize("name", ["train.parquet", "train.jsonl"])
def test_numbers_that_are_not_finite_refuse_a_row_only_where_they_are_read(name: str, tmp_path: Path) -> None:
    def outcome(**row: Any) -> Any:
        lines = (json.dumps(row) + "\n").encode()
        content = as_parquet(**{key: pa.array([value]) for key, value in row.items()})
        return result("SFT", read(content if name.endswith("parquet") else lines, name, tmp_path))

    pair = {"prompt": "Hi", "completion": "Ahoy"}
    assert not isinstance(outcome(**pair, score=math.nan, metadata={"a": [math.nan]}, quality=-math.inf), Refused)
    assert not isinstance(outcome(**pair, system=math.nan), Refused)
    weighed = [{**turn, "weight": math.nan} for turn in TURNS]
    assert outcome(messages=weighed).reason == "turn 1: weight is nan: write a finite number, or null"
    assert "completion is inf: write a finite number" in outcome(prompt="Hi", completion=math.inf).reason
    calls = [TURNS[0], {**CALL, "tool_calls": [{"name": "f", "arguments": {"a": math.nan}}]}, *CALLED[2:]]
    assert "a number that is nan" in outcome(messages=calls).reason
    assert "the row has prompt and no completion" in outcome(prompt="Hi", completion=math.nan).reason


def test_values_without_a_meaning_are_refused_by_their_field(tmp_path: Path) -> None:
    def reason(**columns: Any) -> str:
        refused = result("SFT", read(as_parquet(**columns), "train.parquet", tmp_path))
        return refused.reason if isinstance(refused, Refused) else refused

    assert reason(prompt=["Hi"], completion=[b"\xff"]) == (
        "completion is bytes that are not UTF-8, neither a text nor a list of messages"
    )
    assert "completion is true or false" in reason(prompt=["Hi"], completion=[True])
    long = pa.array([{"a": Decimal("0.12345678901234567890123")}])
    assert reason(prompt=["Hi"], completion=["x"], metadata=long) == (
        "its field 'metadata.a' has more digits than numbers keep: write it as a text"
    )
    twice = pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))
    assert reason(prompt=["Hi"], completion=["x"], metadata=twice) == (
        "a map in its column 'metadata' has a key twice: keep one"
    )
