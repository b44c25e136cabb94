"""Counts of the rows of a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.rows.encoded import Encoded
from trainer.splits import tally
from trainer.splits.left_out import LeftOutRows
from trainer.splits.tally import Limits, Tally


def test_a_field_with_a_name_of_its_own_is_counted_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MAX_FIELDS", 2)
    with LeftOutRows(tmp_path) as left_out:
        counts = Tally("train", ["train.jsonl"], Limits(8), left_out)
        for number, names in enumerate((["a", "b"], ["c"], ["a"], ["b", "d"]), 1):
            row = Encoded([2], [2], 1, unread_fields=names)
            counts.add(0, number, row, {"input_ids": row.input_ids, "labels": row.labels})
    assert counts.to_json()["fields_not_read"] == {"a": 2, "b": 2, tally.OTHER_FIELDS: 2}
