"""No field of a row is lost: it changes the tokens, the mask, or the verdict.

The exceptions are stated: fields without a value, weight 1, and the fields that are counted by name.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st

from gemtune.datasets.formats import table
from gemtune.datasets.reading.fields import HARMLESS, UNSUPPORTED
from gemtune.datasets.refusal import Refused
from gemtune.datasets.row_options import ReadOptions
from tests import tiny_gemma
from trainer.dataset.rows import read_rows
from trainer.rows.encoded import Encoded
from trainer.rows.encoder import Encoder
from trainer.rows.kinds import Conversations

WEATHER = {"name": "weather", "description": "Says it.", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
# A row of each format, and where its turns are.
BASES: dict[str, tuple[dict[str, Any], str]] = {
    "openai": (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Captain"}]},
        "messages",
    ),
    "anthropic": (
        {
            "system": "Be kind.",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": "Captain"},
            ],
        },
        "messages",
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Captain"}]},
        "conversations",
    ),
    "vertex": (
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Captain"}]}]},
        "contents",
    ),
    "prompt_completion": ({"prompt": "Hi", "completion": "Captain"}, ""),
    "question_answer": ({"question": "Hi", "answer": "Captain"}, ""),
    "alpaca": ({"instruction": "Hi", "output": "Captain"}, ""),
    "text": ({"text": "Hi Captain"}, ""),
    "exchanges": ({"conversation": [{"input": "Hi", "output": "Captain"}]}, ""),
    "xlam": ({"query": "Hi", "answers": [CALL], "tools": json.dumps([WEATHER])}, ""),
}
# Values of fields that mean something to some trainer.
OF_ROWS: dict[str, Any] = {
    "tools": [{"type": "function", "function": WEATHER}],
    "functions": [WEATHER],
    "system": "Be brief.",
    "system_prompt": "Be brief.",
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "chat_template_kwargs": {"enable_thinking": True},
    "enable_thinking": True,
    "images": ["a.png"],
    "image": "a.png",
    "input": "there",
    "history": [["a", "b"]],
    "prompt": "Ho",
    "completion": "Aye",
    "response": "Aye",
    "text": "More",
    "messages": [{"role": "user", "content": "Ho"}, {"role": "assistant", "content": "Aye"}],
    **dict.fromkeys(UNSUPPORTED, "a value"),
}
OF_ANSWERS: dict[str, Any] = {
    "weight": 0,
    "train": False,
    "training": 0,
    "loss_mask": 0,
    "loss": False,
    "tool_calls": [CALL],
    "function_call": CALL["function"],
    "reasoning_content": "Hm",
    "reasoning": "Hm",
    "thinking": "Hm",
    "train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}],
    # In their order: a set would give each worker another one.
    **{name: "a value" for name in UNSUPPORTED if name not in ("role", "name")},
}


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> Conversations:
    folder = tiny_gemma.build(tmp_path_factory.mktemp("models") / "gemma4", "gemma4-e-text")
    template = Path(trl.__file__).parent / "chat_templates" / "gemma4.jinja"
    (folder / "chat_template.jinja").write_text(template.read_text())
    return Conversations(Encoder(folder, max_length=512), None, ReadOptions(), "all_assistant_turns")


def outcome(kind: Conversations, row: dict[str, Any]) -> Any:
    """Return what is learned of a row, or that it is refused."""
    encoded = kind.encode(copy.deepcopy(row))
    return "refused" if isinstance(encoded, Refused) else (encoded.input_ids, encoded.labels)


@pytest.mark.parametrize("name", BASES)
def test_the_rows_themselves_are_learned(name: str, kind: Conversations) -> None:
    assert outcome(kind, BASES[name][0]) != "refused"


def with_answer_field(name: str, field: str, value: Any) -> dict[str, Any]:
    row, turns = copy.deepcopy(BASES[name])
    row[turns][1][field] = value
    return row


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("field", OF_ROWS)
def test_a_field_of_a_row_changes_something(name: str, field: str, kind: Conversations) -> None:
    row = BASES[name][0]
    if field not in row:
        assert outcome(kind, row | {field: OF_ROWS[field]}) != outcome(kind, row)
    assert outcome(kind, {field: None} | row) == outcome(kind, row)


@pytest.mark.parametrize("name", [name for name, (_, turns) in BASES.items() if turns])
@pytest.mark.parametrize("field", OF_ANSWERS)
def test_a_field_of_an_answer_changes_something(name: str, field: str, kind: Conversations) -> None:
    base = outcome(kind, BASES[name][0])
    assert outcome(kind, with_answer_field(name, field, OF_ANSWERS[field])) != base
    assert outcome(kind, with_answer_field(name, field, None)) == base
    if field in ("weight", "train", "training", "loss_mask", "loss"):
        assert outcome(kind, with_answer_field(name, field, 1)) == base


NAMES = st.text(st.characters(categories=["Ll", "Nd"], include_characters="_"), min_size=1, max_size=12)
VALUES = st.one_of(st.booleans(), st.integers(), st.text(min_size=1), st.lists(st.integers(), min_size=1))


@settings(max_examples=60)
@given(st.sampled_from(sorted(BASES)), NAMES | st.sampled_from(sorted(HARMLESS)), VALUES, st.booleans())
def test_any_other_field_refuses_its_row_or_is_counted(
    kind: Conversations, name: str, field: str, value: Any, of_answer: bool
) -> None:
    row, turns = BASES[name]
    own = {*row, *table.FIELDS, *OF_ROWS, *OF_ANSWERS, "role", "content", "from", "value", "parts", "markdown"}
    if field in own:
        return
    deep = bool(of_answer and turns)
    encoded = kind.encode(with_answer_field(name, field, value) if deep else row | {field: value})
    if field in HARMLESS:
        assert isinstance(encoded, Encoded)
        assert encoded.unread_fields == (f"{turns}.{field}" if deep else field,)
    else:
        assert isinstance(encoded, Refused)
        assert field in encoded.reason


ROWS: list[dict[str, Any]] = [
    *(row for row, _ in BASES.values() if "contents" not in row),
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "no", "weight": 0},
            {"role": "user", "content": "Hm?"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
            {"role": "assistant", "content": "Captain", "weight": 1},
        ],
        "tools": json.dumps([WEATHER]),
        "id": "a",
    },
]


def test_parquet_gives_the_same_as_json_lines(tmp_path: Path, kind: Conversations) -> None:
    """Write rows of several formats into one table.

    Each has nulls for the columns of the others.
    """
    rows = [row for row in ROWS if not any(isinstance(part, list) for part in contents(row))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = sorted({name for row in rows for name in row})
    columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    by_file = [
        [outcome(kind, row) for _, row in read_rows(tmp_path / name) if not isinstance(row, Refused)]
        for name in ("rows.jsonl", "rows.parquet")
    ]
    assert by_file[0] == by_file[1]
    assert len(by_file[0]) == len(rows) > 6
    assert "refused" not in by_file[0]


def contents(row: dict[str, Any]) -> list[Any]:
    return [message.get("content") for message in row.get("messages", ())]
