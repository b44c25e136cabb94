"""Row of a dataset, as its file has it and as a check read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from gemtune.checks.report import SamplePiece

SplitName = Literal["train", "held_out"]


class RowTokens(BaseModel):
    """Tokens of a row, or of a part of it."""

    part: str | None = Field(description="column that they come from, for rows of reinforcement learning")
    ids: Sequence[int] = Field(description="ids of the tokens, in order")
    texts: Sequence[str] = Field(description="text of each token")
    trained: Sequence[bool] = Field(description="whether each token has a loss")


class CheckedRow(BaseModel):
    """A row of a dataset."""

    file: str = Field(description="file of the row")
    row: int = Field(description="number of the row in its file, from 1; in a file of JSON lines, of its line")
    content: dict[str, Any] | str | None = Field(
        description="the row as it is: an object; a text if it is none; null if it is too long to be shown"
    )
    reason: str | None = Field(None, description="why it is not used, or not shown; null otherwise")
    text: Sequence[SamplePiece] | None = Field(
        None, description="text of its tokens, in pieces of trained and untrained ones; only with `check_id`"
    )
    tokens: Sequence[RowTokens] | None = Field(
        None, description="its tokens; only with `check_id`, and null for a row of more than 4096 tokens"
    )


def rows_name(split: SplitName) -> str:
    """Return the name of a check's file with the rows of a split."""
    return f"rows_{split}.jsonl"
