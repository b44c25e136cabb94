"""Rows of a token file as a trainer's dataset, and how some of them become one batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict, cast, final

import torch

from trainer.rows.encoder import UNTRAINED
from trainer.rows.packing import packs


class Row(TypedDict):
    """A row of a token file. pictures: the numbers of its pictures, of a vision job."""

    input_ids: list[int]
    labels: list[int]
    pictures: NotRequired[list[int]]


@final
class FlatBatch(TypedDict):
    """Rows one after the other, as one sequence without padding: tensors are (1, tokens). position_ids: from 0 in each
    row. shift_labels: what each position predicts. row_lengths: tokens of each row, for `row_attention`."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    shift_labels: torch.Tensor
    row_lengths: list[int]


@final
class PaddedBatch(TypedDict):
    """Rows one below the other, filled up on the right: tensors are (rows, positions). For attention that knows masks
    only. token_type_ids, pixel_values: of a vision job, see `picture_batches`."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    shift_labels: torch.Tensor
    token_type_ids: NotRequired[torch.Tensor]
    pixel_values: NotRequired[torch.Tensor]


Batch: TypeAlias = FlatBatch | PaddedBatch


class TokenRows(torch.utils.data.Dataset[list[Row]]):
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

    def __getitem__(self, index: int) -> list[Row]:
        return [self._row(row) for row in self._packs[index]]

    def _row(self, row: int) -> Row:
        return cast(Row, {name: column[row].as_py() for name, column in self._columns.items()})


def targets_of(labels: Sequence[int]) -> list[int]:
    """What each position predicts: the label of the next one; the last predicts nothing."""
    return [*labels[1:], UNTRAINED]


def flattened(items: Sequence[Sequence[Row]]) -> FlatBatch:
    """All rows of all items."""
    rows = [row for item in items for row in item]
    lengths = [len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "position_ids": torch.tensor([[position for length in lengths for position in range(length)]]),
        "shift_labels": torch.tensor([[target for row in rows for target in targets_of(row["labels"])]]),
        "row_lengths": lengths,
    }


def padded(items: Sequence[Sequence[Row]]) -> PaddedBatch:
    """All rows of all items."""
    rows = [row for item in items for row in item]
    width = max(len(row["input_ids"]) for row in rows)

    def filled(values: Sequence[int], fill: int) -> list[int]:
        return [*values, *[fill] * (width - len(values))]

    return {
        "input_ids": torch.tensor([filled(row["input_ids"], 0) for row in rows]),
        "attention_mask": torch.tensor([filled([1] * len(row["input_ids"]), 0) for row in rows]),
        "shift_labels": torch.tensor([filled(targets_of(row["labels"]), UNTRAINED) for row in rows]),
    }


def filled_up(batch: FlatBatch, step: int) -> FlatBatch:
    """The same with one more row, of which nothing is trained, if it takes one to make the number of all tokens a
    multiple of `step`."""
    missing = -sum(batch["row_lengths"]) % step
    if not missing:
        return batch
    more = flattened([[{"input_ids": [0] * missing, "labels": [UNTRAINED] * missing}]])
    return {
        "input_ids": torch.cat([batch["input_ids"], more["input_ids"]], dim=1),
        "position_ids": torch.cat([batch["position_ids"], more["position_ids"]], dim=1),
        "shift_labels": torch.cat([batch["shift_labels"], more["shift_labels"]], dim=1),
        "row_lengths": [*batch["row_lengths"], missing],
    }


def some_rows(batch: FlatBatch, rows: Sequence[int]) -> FlatBatch:
    """A batch of these rows alone."""

    def chosen(tensor: torch.Tensor) -> torch.Tensor:
        pieces = tensor.split(batch["row_lengths"], dim=1)
        return torch.cat([pieces[row] for row in rows], dim=1)

    return {
        "input_ids": chosen(batch["input_ids"]),
        "position_ids": chosen(batch["position_ids"]),
        "shift_labels": chosen(batch["shift_labels"]),
        "row_lengths": [batch["row_lengths"][row] for row in rows],
    }


def trained_of_rows(batch: FlatBatch) -> list[int]:
    """How many tokens each row is trained on."""
    rows = (batch["shift_labels"] != UNTRAINED).split(batch["row_lengths"], dim=1)
    return [int(row.sum()) for row in rows]


def tokens_in(batch: Batch) -> int:
    """Tokens of a batch without padding."""
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
