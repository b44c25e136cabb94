"""Rows for `bench.train`: token ids and labels, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Rows = list[dict[str, list[int]]]
UNTRAINED = -100
BOS = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """Number and lengths of rows.

    least, most: bounds of the tokens per row. trained: the share of each row's tokens, at its end, that is trained.
    """

    rows_per_step: int
    least: int
    most: int
    trained: float


SHAPES = {
    "all_tokens": Shape(rows_per_step=4, least=256, most=256, trained=1.0),
    "completion_fifth": Shape(rows_per_step=8, least=120, most=360, trained=0.2),
    "preferences": Shape(rows_per_step=8, least=96, most=160, trained=0.4),  # for `bench.preferences`
    "gpu": Shape(rows_per_step=4, least=512, most=1536, trained=0.5),  # for `bench.gpu`
    "dry": Shape(rows_per_step=2, least=24, most=48, trained=0.5),  # for a dry run of it
    "curve": Shape(rows_per_step=4, least=32, most=64, trained=0.5),  # for `bench.curve`
}


def rows(shape: Shape, tokenizer: Path, steps: int) -> Rows:
    """Return the rows of a run of `steps` train_steps."""
    from tokenizers import Tokenizer

    generator = random.Random(7)
    encode = Tokenizer.from_file(str(tokenizer)).encode
    rows = []
    for _ in range(steps * shape.rows_per_step):
        length = generator.randint(shape.least, shape.most)
        text, ids = _sentences(generator), [BOS]
        while len(ids) < length:
            ids += encode(next(text), add_special_tokens=False).ids
        ids = ids[:length]
        untrained = max(1, round(length * (1 - shape.trained)))
        rows.append({"input_ids": ids, "labels": [UNTRAINED] * untrained + ids[untrained:]})
    return rows


def random_rows(shape: Shape, vocabulary: int, steps: int) -> Rows:
    """Return rows of random tokens, for models with random weights."""
    generator = random.Random(7)
    rows = []
    for _ in range(steps * shape.rows_per_step):
        length = generator.randint(shape.least, shape.most)
        ids = [BOS, *(generator.randrange(4, vocabulary) for _ in range(length - 1))]
        untrained = max(1, round(length * (1 - shape.trained)))
        rows.append({"input_ids": ids, "labels": [UNTRAINED] * untrained + ids[untrained:]})
    return rows


def _sentences(generator: random.Random) -> Iterator[str]:
    choice = generator.choice
    while True:
        who, where = choice(("The ferry", "A baker", "Our librarian", "The old bridge")), generator.randint(2, 90)
        yield (
            f"{who} {choice(('reached', 'counted', 'measured', 'left'))} "
            f"{choice(('harbour', 'gate', 'shelf', 'tower'))} number {where} on a "
            f"{choice(('rainy', 'quiet', 'windy', 'bright'))} {choice(('Monday', 'Thursday', 'Sunday'))}"
            f", and {choice(('nobody noticed', 'the clerk wrote it down', 'it took an hour longer'))}. "
        )
