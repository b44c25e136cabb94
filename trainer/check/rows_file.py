"""Files with the first rows of each split: as they are, as text, as tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from gemtune.checks.report import SamplePiece
from gemtune.checks.row import CheckedRow, RowTokens, SplitName, rows_name
from gemtune.datasets.refusal import Refused
from trainer.rows.encoded import UNTRAINED
from trainer.rows.encoder import Encoder
from trainer.rows.kinds import PreparedRow, RowKind

# Limits of a file, and of what is shown of a row.
MAX_ROWS, MAX_BYTES = 1000, 16 * 1024 * 1024
MAX_CONTENT_BYTES, MAX_TEXT, MAX_TOKENS = 64 * 1024, 64 * 1024, 4096
# Names of the splits in prepare.
SPLITS: Mapping[str, SplitName] = {"train": "train", "held-out": "held_out"}


class RowsFile:
    """Writer of the first rows of each split, below a folder."""

    def __init__(self, folder: Path, kind: RowKind, encoder: Encoder):
        self._folder, self._kind, self._encoder = folder, kind, encoder
        self._left = dict.fromkeys(SPLITS, (MAX_ROWS, MAX_BYTES))

    def add(
        self, split: str, file: str, number: int, row: dict[str, Any] | Refused, prepared: PreparedRow | Refused
    ) -> None:
        """Append a row, unless its split has enough."""
        rows, size = self._left[split]
        if not rows or size <= 0:
            return
        line = (self._described(file, number, row, prepared).model_dump_json() + "\n").encode()
        self._left[split] = rows - 1, size - len(line)
        with (self._folder / rows_name(SPLITS[split])).open("ab") as target:
            target.write(line)

    def _described(
        self, file: str, number: int, row: dict[str, Any] | Refused, prepared: PreparedRow | Refused
    ) -> CheckedRow:
        reason = prepared.reason if isinstance(prepared, Refused) else None
        content = None if isinstance(row, Refused) else _plain(row)
        if content is None and reason is None:
            reason = f"used, and not shown: longer than {MAX_CONTENT_BYTES} bytes, or not text only"
        if isinstance(prepared, Refused):
            return CheckedRow(file=file, row=number, content=content, reason=reason)
        pieces = [SamplePiece.model_validate(piece) for piece in self._kind.text_pieces(prepared)]
        return CheckedRow(
            file=file,
            row=number,
            content=content,
            reason=reason,
            text=pieces if sum(len(piece.text) for piece in pieces) <= MAX_TEXT else None,
            tokens=list(self._tokens(prepared.columns)) if prepared.tokens <= MAX_TOKENS else None,
        )

    def _tokens(self, columns: Mapping[str, Any]) -> Iterator[RowTokens]:
        """Yield the tokens of each column of token ids."""
        for name, ids in columns.items():
            if not name.endswith("ids"):
                continue
            if name == "input_ids":
                part, trained = None, [label != UNTRAINED for label in columns["labels"]]
            else:
                part = name.removesuffix("_ids")
                gaps = set(columns.get(f"{part}_gaps", ()))
                trained = [part != "prompt" and index not in gaps for index in range(len(ids))]
            texts = [self._encoder.text([token]) for token in ids]
            yield RowTokens(part=part, ids=ids, texts=texts, trained=trained)


def _plain(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row that JSON can hold and that is not long; otherwise None."""
    row = {name: str(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    try:
        text = json.dumps(row)
    except (TypeError, ValueError):  # pictures of Parquet files are bytes
        return None
    return row if len(text) <= MAX_CONTENT_BYTES else None
