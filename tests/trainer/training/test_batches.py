"""Rows as batches, packed or padded: inputs, positions and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from trainer.training.batches import (
    TokenRows,
    count_tokens,
    fill_to_multiple,
    flatten_rows,
    next_token_labels,
    pad_rows,
    select_rows,
    trained_tokens_per_row,
)

NO = -100  # the label of a position that is not trained on
LONG = {"input_ids": [5, 6, 7], "labels": [NO, 6, 7]}
SHORT = {"input_ids": [8, 9], "labels": [NO, 9]}


def as_lists(batch: Any) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def test_a_position_predicts_the_next_token_and_the_last_nothing() -> None:
    assert next_token_labels([NO, 6, 7]) == [6, 7, NO]


def test_packed_rows_follow_each_other_and_each_begins_at_position_0() -> None:
    assert as_lists(flatten_rows([[LONG, SHORT], [SHORT]])) == {
        "input_ids": [[5, 6, 7, 8, 9, 8, 9]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 1]],
        "shift_labels": [[6, 7, NO, 9, NO, 9, NO]],
        "row_lengths": [3, 2, 2],
    }


def test_padded_rows_are_filled_up_on_the_right() -> None:
    assert as_lists(pad_rows([[LONG], [SHORT]])) == {
        "input_ids": [[5, 6, 7], [8, 9, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "shift_labels": [[6, 7, NO], [9, NO, NO]],
    }


def test_tokens_are_counted_without_padding() -> None:
    assert count_tokens(pad_rows([[LONG], [SHORT]])) == 5
    assert count_tokens(flatten_rows([[LONG, SHORT]])) == 5


def test_a_batch_is_filled_up_with_a_row_without_trained_tokens() -> None:
    assert as_lists(fill_to_multiple(flatten_rows([[LONG, SHORT]]), 4)) == {
        "input_ids": [[5, 6, 7, 8, 9, 0, 0, 0]],
        "position_ids": [[0, 1, 2, 0, 1, 0, 1, 2]],
        "shift_labels": [[6, 7, NO, 9, NO, NO, NO, NO]],
        "row_lengths": [3, 2, 3],
    }
    full = flatten_rows([[LONG, SHORT]])
    assert as_lists(fill_to_multiple(full, 5)) == as_lists(full)


def test_selected_rows_form_a_batch_of_their_own() -> None:
    batch = flatten_rows([[LONG, SHORT, LONG]])
    assert as_lists(select_rows(batch, [1, 2])) == as_lists(flatten_rows([[SHORT, LONG]]))
    assert trained_tokens_per_row(batch) == [2, 1, 2]


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Write rows of 3, 2 and 4 tokens to a Parquet file."""
    longest = {"input_ids": [1, 2, 3, 4], "labels": [NO, NO, 3, 4]}
    pq.write_table(pa.Table.from_pylist([LONG, SHORT, longest]), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_an_item_is_one_row(rows_file: Path) -> None:
    rows = TokenRows(rows_file)
    assert (len(rows), rows[0], rows[1]) == (3, [LONG], [SHORT])
    assert [rows.max_batch_tokens(size) for size in (1, 2, 3, 9)] == [4, 7, 9, 9]


def test_an_item_holds_the_rows_that_are_packed_together(rows_file: Path) -> None:
    rows = TokenRows(rows_file, pack_into=5)
    assert sorted(sorted(len(row["input_ids"]) for row in rows[index]) for index in range(len(rows))) == [[2, 3], [4]]
    assert rows.max_batch_tokens(1) == 5
