"""Rows of a token file as a trainer's dataset, and how some of them become one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.rows.encoder import UNTRAINED
from trainer.rows.packing import packs

# A row: input_ids, labels, and of a vision job the numbers of its pictures.
Tokens = Mapping[str, Any]


class TokenRows(torch.utils.data.Dataset[list[Tokens]]):
    """Rows of a token file. An item is the rows that are packed together: one, unless `pack_into` tokens are given."""

    def __init__(self, path: Path, *, pack_into: int | None = None):
        import pyarrow.parquet as pq

        # Arrow's buffers hold four bytes a token; Python's lists would hold forty. Its functions are not asked for here
        # (pyarrow.compute, which `read_table` imports, too): to have them takes 13 MB.
        with pq.ParquetFile(path) as file:
            table = file.read().combine_chunks()
        self._columns = {name: table.column(name) for name in table.column_names}
        lengths = [len(row) for row in self._columns["input_ids"]]
        self._packs = [[row] for row in range(len(lengths))] if pack_into is None else packs(lengths, pack_into)
        self._tokens = [sum(lengths[row] for row in pack) for pack in self._packs]

    def __len__(self) -> int:
        return len(self._packs)

    def tokens_of_largest(self, batch_size: int) -> int:
        """Tokens of a batch of the longest items: what the memory has to suffice for."""
        return sum(sorted(self._tokens)[-batch_size:])

    def __getitem__(self, index: int) -> list[Tokens]:
        return [self._row(row) for row in self._packs[index]]

    def _row(self, row: int) -> Tokens:
        return {name: column[row].as_py() for name, column in self._columns.items()}


def targets_of(labels: Sequence[int]) -> list[int]:
    """What each position predicts: the label of the next one; the last predicts nothing."""
    return [*labels[1:], UNTRAINED]


def flattened(items: Sequence[Sequence[Tokens]]) -> dict[str, Any]:
    """All rows one after the other, as a batch of one sequence without padding: input_ids, position_ids (from 0 in each
    row) and shift_labels, each (1, tokens), and row_lengths for `row_attention`."""
    rows = [row for item in items for row in item]
    lengths = [len(row["input_ids"]) for row in rows]
    columns = {
        "input_ids": [token for row in rows for token in row["input_ids"]],
        "position_ids": [position for length in lengths for position in range(length)],
        "shift_labels": [target for row in rows for target in targets_of(row["labels"])],
    }
    return {name: torch.tensor([column]) for name, column in columns.items()} | {"row_lengths": lengths}


def padded(items: Sequence[Sequence[Tokens]]) -> dict[str, Any]:
    """One row below the other, filled up on the right: input_ids, attention_mask and shift_labels, each
    (rows, positions). For attention that knows masks only."""
    rows = [row for item in items for row in item]
    width = max(len(row["input_ids"]) for row in rows)

    def filled(values: Sequence[int], fill: int) -> list[int]:
        return [*values, *[fill] * (width - len(values))]

    columns = {
        "input_ids": [filled(row["input_ids"], 0) for row in rows],
        "attention_mask": [filled([1] * len(row["input_ids"]), 0) for row in rows],
        "shift_labels": [filled(targets_of(row["labels"]), UNTRAINED) for row in rows],
    }
    return {name: torch.tensor(column) for name, column in columns.items()}


def filled_up(batch: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The same with one more row, of which nothing is trained, if it takes one to make the number of all tokens a
    multiple of `step`. batch: of `flattened`."""
    missing = -sum(batch["row_lengths"]) % step
    if not missing:
        return dict(batch)
    more = flattened([[{"input_ids": [0] * missing, "labels": [UNTRAINED] * missing}]])
    columns = {name: torch.cat([batch[name], value], dim=1) for name, value in more.items() if name != "row_lengths"}
    return columns | {"row_lengths": [*batch["row_lengths"], missing]}


def some_rows(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """A batch of these rows alone. batch: of `flattened`."""
    columns = {name: value.split(batch["row_lengths"], dim=1) for name, value in batch.items() if name != "row_lengths"}
    chosen = {name: torch.cat([pieces[row] for row in rows], dim=1) for name, pieces in columns.items()}
    return chosen | {"row_lengths": [batch["row_lengths"][row] for row in rows]}


def trained_of_rows(batch: Mapping[str, Any]) -> list[int]:
    """How many tokens each row is trained on. batch: of `flattened`."""
    rows = (batch["shift_labels"] != UNTRAINED).split(batch["row_lengths"], dim=1)
    return [int(row.sum()) for row in rows]


def tokens_in(batch: Mapping[str, Any]) -> int:
    """Tokens of a batch without padding."""
    mask = batch.get("attention_mask")
    return int(batch["input_ids"].numel() if mask is None else mask.sum().item())
