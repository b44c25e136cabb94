"""Datasets of token rows, and batches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict, cast, final

import torch

from trainer.rows.encoded import UNTRAINED
from trainer.rows.packing import packs


class Row(TypedDict):
    """A row of a token file.

    pictures: indices of its pictures in the picture file, in vision jobs. audio: the same of its clips, in audio jobs.
    """

    input_ids: list[int]
    labels: list[int]
    pictures: NotRequired[list[int]]
    audio: NotRequired[list[int]]


@final
class FlatBatch(TypedDict):
    """Rows concatenated into one sequence, without padding.

    input_ids, position_ids, shift_labels: (1, tokens), int64. position_ids start at 0 in each row. shift_labels: the
    token that each position predicts, UNTRAINED where it predicts none. row_lengths: tokens per row, for
    `row_attention`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    shift_labels: torch.Tensor
    row_lengths: list[int]


@final
class PaddedBatch(TypedDict):
    """Rows padded on the right, for attention that needs a mask.

    Tensors are (rows, positions), int64; shift_labels as in FlatBatch. attention_mask: 1 at tokens, 0 at padding.
    The others are those of vision jobs, see `picture_batches.PictureInputs`, and of audio jobs, see
    `audio_batches.AudioInputs`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    shift_labels: torch.Tensor
    token_type_ids: NotRequired[torch.Tensor]
    mm_token_type_ids: NotRequired[torch.Tensor]
    pixel_values: NotRequired[torch.Tensor]
    image_position_ids: NotRequired[torch.Tensor]
    input_features: NotRequired[torch.Tensor]
    input_features_mask: NotRequired[torch.Tensor]


Batch: TypeAlias = FlatBatch | PaddedBatch


class TokenRows(torch.utils.data.Dataset[list[Row]]):
    """The rows of a token file as a dataset.

    An item is a list of rows that are packed together: one row, unless `pack_into` says how many tokens an item may
    have.
    """

    def __init__(self, path: Path, *, pack_into: int | None = None):
        """Read a token file of the prepare step into memory.

        pack_into: the most tokens per item, to pack rows; None for one row each.
        """
        import pyarrow.parquet as pq

        # Arrow's buffers hold four bytes per token; Python's lists would hold forty. `read_table` would import
        # pyarrow.compute, which takes 13 MB and is not needed.
        with pq.ParquetFile(path) as file:
            table = file.read().combine_chunks()
        self._columns = {name: table.column(name) for name in table.column_names}
        lengths = [len(row) for row in self._columns["input_ids"]]
        self._packs = [[row] for row in range(len(lengths))] if pack_into is None else packs(lengths, pack_into)
        self._tokens = [sum(lengths[row] for row in pack) for pack in self._packs]

    def __len__(self) -> int:
        return len(self._packs)

    def max_batch_tokens(self, batch_size: int) -> int:
        """Return the tokens of the batch with the longest items.

        The memory has to suffice for that one.
        """
        return sum(sorted(self._tokens)[-batch_size:])

    def __getitem__(self, index: int) -> list[Row]:
        """Return the rows that are packed together as one item."""
        return [self._row(row) for row in self._packs[index]]

    def _row(self, row: int) -> Row:
        return cast(Row, {name: column[row].as_py() for name, column in self._columns.items()})


def next_token_labels(labels: Sequence[int]) -> list[int]:
    """Return the label of each position's next token, UNTRAINED for the last."""
    return [*labels[1:], UNTRAINED]


def flatten_rows(items: Sequence[Sequence[Row]]) -> FlatBatch:
    """Concatenate all rows of all items to one batch."""
    rows = [row for item in items for row in item]
    lengths = [len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "position_ids": torch.tensor([[position for length in lengths for position in range(length)]]),
        "shift_labels": torch.tensor([[target for row in rows for target in next_token_labels(row["labels"])]]),
        "row_lengths": lengths,
    }


def pad_rows(items: Sequence[Sequence[Row]]) -> PaddedBatch:
    """Pad all rows of all items to the length of the longest."""
    rows = [row for item in items for row in item]
    width = max(len(row["input_ids"]) for row in rows)

    def pad(values: Sequence[int], fill: int) -> list[int]:
        return [*values, *[fill] * (width - len(values))]

    return {
        "input_ids": torch.tensor([pad(row["input_ids"], 0) for row in rows]),
        "attention_mask": torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in rows]),
        "shift_labels": torch.tensor([pad(next_token_labels(row["labels"]), UNTRAINED) for row in rows]),
    }


def fill_to_multiple(batch: FlatBatch, multiple: int) -> FlatBatch:
    """Append an untrained row, to make the tokens a multiple of a number.

    Returns the batch itself if they are one already.
    """
    missing = -sum(batch["row_lengths"]) % multiple
    if not missing:
        return batch
    filler = flatten_rows([[{"input_ids": [0] * missing, "labels": [UNTRAINED] * missing}]])
    return {
        "input_ids": torch.cat([batch["input_ids"], filler["input_ids"]], dim=1),
        "position_ids": torch.cat([batch["position_ids"], filler["position_ids"]], dim=1),
        "shift_labels": torch.cat([batch["shift_labels"], filler["shift_labels"]], dim=1),
        "row_lengths": [*batch["row_lengths"], missing],
    }


def select_rows(batch: FlatBatch, rows: Sequence[int]) -> FlatBatch:
    """Return a batch of these rows only, given by their indices."""

    def select(tensor: torch.Tensor) -> torch.Tensor:
        pieces = tensor.split(batch["row_lengths"], dim=1)
        return torch.cat([pieces[row] for row in rows], dim=1)

    return {
        "input_ids": select(batch["input_ids"]),
        "position_ids": select(batch["position_ids"]),
        "shift_labels": select(batch["shift_labels"]),
        "row_lengths": [batch["row_lengths"][row] for row in rows],
    }


def trained_tokens_per_row(batch: FlatBatch) -> list[int]:
    """Return how many tokens of each row are trained on."""
    rows = (batch["shift_labels"] != UNTRAINED).split(batch["row_lengths"], dim=1)
    return [int(row.sum()) for row in rows]


def count_tokens(batch: Batch) -> int:
    """Return the tokens of a batch, without padding."""
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
