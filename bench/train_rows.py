"""Rows for `bench.train`, the same every time: token ids and labels, cut to the lengths that a shape wants."""

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
    """rows_a_step of `least` to `most` tokens; of each row the last `trained` share is trained on."""

    rows_a_step: int
    least: int
    most: int
    trained: float


SHAPES = {
    "all_tokens": Shape(rows_a_step=4, least=256, most=256, trained=1.0),
    "completion_fifth": Shape(rows_a_step=8, least=120, most=360, trained=0.2),
    "preferences": Shape(rows_a_step=8, least=96, most=160, trained=0.4),  # of `bench.preferences`
    "curve": Shape(rows_a_step=4, least=32, most=64, trained=0.5),  # of `bench.curve`
}


def rows(shape: Shape, tokenizer: Path, steps: int) -> Rows:
    """As many rows as a run of `steps` train_steps takes."""
    from tokenizers import Tokenizer

    chance = random.Random(7)
    encode = Tokenizer.from_file(str(tokenizer)).encode
    made = []
    for _ in range(steps * shape.rows_a_step):
        length = chance.randint(shape.least, shape.most)
        text, ids = _sentences(chance), [BOS]
        while len(ids) < length:
            ids += encode(next(text), add_special_tokens=False).ids
        ids = ids[:length]
        untrained = max(1, round(length * (1 - shape.trained)))
        made.append({"input_ids": ids, "labels": [UNTRAINED] * untrained + ids[untrained:]})
    return made


def _sentences(chance: random.Random) -> Iterator[str]:
    while True:
        who, where = chance.choice(("The ferry", "A baker", "Our librarian", "The old bridge")), chance.randint(2, 90)
        yield (
            f"{who} {chance.choice(('reached', 'counted', 'measured', 'left'))} "
            f"{chance.choice(('harbour', 'gate', 'shelf', 'tower'))} number {where} on a "
            f"{chance.choice(('rainy', 'quiet', 'windy', 'bright'))} {chance.choice(('Monday', 'Thursday', 'Sunday'))}"
            f", and {chance.choice(('nobody noticed', 'the clerk wrote it down', 'it took an hour longer'))}. "
        )
