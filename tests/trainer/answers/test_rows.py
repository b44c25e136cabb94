"""Prompts in files of rows."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import StepError
from tests import rows as test_rows
from trainer.answers.rows import NO_COLUMNS, Columns, RowPrompt, read

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}


def prompts_of(folder: Path, *rows: Any, columns: Columns = NO_COLUMNS) -> list[RowPrompt]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read(file, columns))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, ANSWER]}, "Hello."),
        ({"messages": [USER]}, None),
        ({"prompt": "Hi", "completion": "Hello."}, "Hello."),
        ({"prompt": "Hi"}, None),
        ({"prompt": [USER], "answer": "4"}, "4"),
        ({"instruction": "Hi", "input": "", "output": "Hello."}, "Hello."),
    ],
)
def test_a_row_is_asked_without_its_last_answer(tmp_path: Path, row: dict[str, Any], expected: str | None) -> None:
    (prompt,) = prompts_of(tmp_path, row)
    assert prompt.conversation is not None
    assert [(turn.role, turn.content) for turn in prompt.conversation.turns] == [("user", "Hi")]
    assert (prompt.number, prompt.text, prompt.expected, prompt.refusal) == (1, "Hi", expected, None)


COLUMNS = {"prompt": "question", "completion": "reply", "number": None}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Hi", "reply": "Hello.", "number": 7}, "Hello."),
        ({"question": "Hi", "number": 7}, None),
        ({"prompt": "Hi", "completion": "Hello."}, "Hello."),  # of another file than the training's
    ],
)
def test_rows_with_columns_of_the_training_are_read_as_there(
    tmp_path: Path, row: dict[str, Any], expected: str | None
) -> None:
    (prompt,) = prompts_of(tmp_path, row, columns=COLUMNS)
    assert (prompt.text, prompt.expected, prompt.refusal) == ("Hi", expected, None)


def test_earlier_turns_and_the_system_message_stay(tmp_path: Path) -> None:
    system, again = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Again"}
    (prompt,) = prompts_of(tmp_path, {"messages": [system, USER, ANSWER, again, ANSWER]})
    assert prompt.conversation is not None
    assert [turn.role for turn in prompt.conversation.turns] == ["system", "user", "assistant", "user"]
    assert prompt.text == "Again"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "Once upon a time"}, "no prompt"),
        ({"messages": []}, ""),
        ({"other": 1}, "the row has other"),
        ({"messages": [{"role": "assistant", "content": "Hello."}]}, "do not alternate"),
        ({"messages": [USER, ANSWER], "images": ["../outside.png"]}, "outside"),
        ({"messages": [USER, ANSWER], "images": ["missing.png"]}, "no picture"),
        (1, ""),
    ],
)
def test_rows_that_cannot_be_asked_say_why(tmp_path: Path, row: Any, reason: str) -> None:
    bad, good = prompts_of(tmp_path, row, {"prompt": "Hi"})
    assert (bad.conversation, good.number, good.text) == (None, 2, "Hi")
    assert bad.refusal
    assert reason in bad.refusal


def test_pictures_come_from_the_row_or_from_beside_the_file(tmp_path: Path) -> None:
    content = test_rows.picture("red", 1)
    (tmp_path / "red.png").write_bytes(content)
    encoded = base64.b64encode(content).decode()
    rows = [{"messages": [USER, ANSWER], "images": [image]} for image in ("red.png", {"bytes": encoded})]
    for prompt in prompts_of(tmp_path, *rows):
        assert prompt.conversation is not None
        assert prompt.conversation.images() == [content]


def test_a_damaged_file_is_to_be_corrected(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"prompt": "Hi"}')
    with pytest.raises(StepError) as caught:
        list(read(tmp_path / "rows.json"))
    assert (caught.value.code, caught.value.hint) == ("bad_dataset", "correct the file, and ask again")
