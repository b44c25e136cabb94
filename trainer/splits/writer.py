"""Writing of a split: its rows are read, checked, tokenized and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gemtune.datasets.refusal import Refused
from trainer.dataset.rows import read_rows
from trainer.dataset.source import Dataset
from trainer.process.collection import only_new_objects_collected
from trainer.rows.kinds import PreparedRow, RowKind, encode_rows
from trainer.rows.prepared import TokenFile, in_numbers
from trainer.splits.columns import NamedColumns
from trainer.splits.tally import Tally

# (split, file, number in the file, row, prepared row): called with each row. A row that cannot be parsed is refused.
WatchRow = Callable[[str, str, int, dict[str, Any] | Refused, PreparedRow | Refused], None]


def ignore_row(
    split: str, file: str, number: int, row: dict[str, Any] | Refused, prepared: PreparedRow | Refused
) -> None:
    """Do nothing with a row."""


def write_split(
    dataset: Dataset,
    kind: RowKind,
    target: Path,
    tally: Tally,
    columns: NamedColumns,
    work: Path,
    check_stop: Callable[[], None],
    watch: WatchRow = ignore_row,
) -> None:
    """Write the rows of a split that can be trained on, and count all.

    work: folder for copies of the dataset's files. watch: called with every row. Raises StepError `bad_dataset`, and
    what `check_stop` raises.
    """
    with TokenFile(target, kind.columns) as tokens, only_new_objects_collected():
        for file, name in enumerate(tally.files):
            with dataset.open(name, work) as path:
                rows = read_rows(path, with_media=kind.with_media, named=name)
                for number, row, prepared in encode_rows(kind, rows):
                    check_stop()
                    columns.look_in(row)
                    watch(tally.split, name, number, row, prepared)
                    if isinstance(prepared, Refused):
                        tally.leave_out(file, number, prepared)
                        continue
                    numbers = in_numbers(prepared.columns)
                    tokens.add(numbers)
                    tally.add(file, number, prepared, numbers)
                    if len(tally.samples) < tally.wanted_samples:
                        tally.samples.append(kind.text_pieces(prepared))
