"""File that names every row that is left out, with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from trainer.store.file_writer import FileWriter

NAME = "rows_left_out.jsonl"
Why = Literal["refused", "too_long"]


class LeftOutRows(FileWriter):
    """JSON lines of `split`, `file`, `row`, `why` and `reason`.

    Rows are written one by one, so that their number does not matter.
    """

    def __init__(self, folder: Path):
        self._file = (folder / NAME).open("w", encoding="utf-8")

    def _finish(self) -> None:
        """Do nothing: every row is complete."""

    def _close(self) -> None:
        self._file.close()

    def add(self, split: str, file: str, number: int, why: Why, reason: str) -> None:
        """Append a row."""
        row = {"split": split, "file": file, "row": number, "why": why, "reason": reason}
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
