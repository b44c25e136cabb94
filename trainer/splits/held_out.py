"""Rows that are held out of the train split, where no others are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from gemtune.errors import StepError
from trainer.rows.prepared import TokenFile, read_tokens
from trainer.splits.kept_rows import KeptRows

# This fraction of the rows is held out, up to a sufficient number.
EVAL_SHARE, MAX_EVAL_ROWS = 0.1, 500


def hold_out(output: Path, columns: Sequence[str], rows: KeptRows, *, seed: int) -> set[int]:
    """Move random rows of train.parquet to eval.parquet; return their indexes.

    The same seed holds out the same rows. Equal rows are held out together, so that none of them is trained on. Raises
    StepError `too_few_rows`.
    """
    chosen = _choose(rows, seed)
    train_path = output / "train.parquet"
    train_path.rename(output / "all.parquet")
    with TokenFile(train_path, columns) as train, TokenFile(output / "eval.parquet", columns) as evaluation:
        for index, row in enumerate(read_tokens(output / "all.parquet")):
            (evaluation if index in chosen else train).add(row)
    (output / "all.parquet").unlink()
    return chosen


def _choose(rows: KeptRows, seed: int) -> set[int]:
    """Return the indexes of the rows to hold out.

    They are drawn among the rows that occur once; if these are too few, among the others too.
    """
    groups = rows.repeated_groups()
    repeated = {index for group in groups for index in group}
    single = [index for index in range(len(rows)) if index not in repeated]
    if len(single) + len(groups) < 2:
        hint = "add other rows, or set eval_strategy to no"
        raise StepError("too_few_rows", "one row cannot be both trained on and held out", hint=hint)
    count, generator = min(MAX_EVAL_ROWS, max(1, round(len(rows) * EVAL_SHARE))), random.Random(seed)
    chosen: list[int] = generator.sample(single, min(count, len(single)))
    for group in generator.sample(groups, len(groups)):
        chosen += group if len(chosen) + len(group) <= count else []
    if not chosen:
        chosen = sorted(groups, key=len)[0]
    return set(chosen)
