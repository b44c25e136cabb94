"""Near duplicates, compared with similarities that are computed exactly."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from trainer.check import near_duplicates
from trainer.check.near_duplicates import Place
from trainer.rows.prepared import TokenFile

# Tokens that every row begins with, as a chat template and an instruction do.
COMMON = list(range(100, 140))


def write(path: Path, rows: list[list[int]]) -> Path:
    with TokenFile(path) as file:
        for row in rows:
            file.add({"input_ids": row, "labels": row})
    return path


def similarity(a: list[int], b: list[int]) -> float:
    """Return the Jaccard similarity of trigrams that are not common."""
    first, second = ({tuple(row[i : i + 3]) for i in range(len(COMMON) - 2, len(row) - 2)} for row in (a, b))
    return len(first & second) / len(first | second)


def changed(row: list[int], places: list[int]) -> list[int]:
    return [token + 5000 if index in places else token for index, token in enumerate(row)]


def test_rows_with_few_other_tokens_are_found_and_the_others_are_not(tmp_path: Path) -> None:
    generator = random.Random(1)
    train = [COMMON + [generator.randrange(1000, 5000) for _ in range(150)] for _ in range(1200)]
    held_out = [
        changed(train[700], [60, 120]),
        changed(train[3], list(range(50, 190, 4))),  # every fourth token
        COMMON + [generator.randrange(1000, 5000) for _ in range(150)],
        train[9],
        changed(train[1199], [189]),
    ]
    duplicates = near_duplicates.find(
        write(tmp_path / "train.parquet", train),
        Place("train {}".format),
        write(tmp_path / "eval.parquet", held_out),
        Place("held out {}".format, frozenset({3})),
    )
    expected = {("held out 0", "train 700"): (0, 700), ("held out 4", "train 1199"): (4, 1199)}
    assert duplicates.rows == 2
    assert {(example.held_out, example.train) for example in duplicates.examples} == set(expected)
    for example in duplicates.examples:
        index, other = expected[example.held_out, example.train]
        assert abs(example.similarity - similarity(held_out[index], train[other])) < 0.12
    assert similarity(held_out[1], train[3]) < near_duplicates.SIMILAR - 0.3


def test_rows_that_share_only_an_instruction_are_no_near_duplicates(tmp_path: Path) -> None:
    instruction = list(range(200, 400))
    train = [[*instruction, 1000 + row, 2000 + row, 3000 + row] for row in range(50)]
    held_out = [[*instruction, 4000 + row, 5000 + row, 6000 + row] for row in range(5)]
    duplicates = near_duplicates.find(
        write(tmp_path / "train.parquet", train),
        Place(str),
        write(tmp_path / "eval.parquet", held_out),
        Place(str),
    )
    assert (duplicates.rows, list(duplicates.examples)) == (0, [])


def test_many_equal_rows_are_one_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(2)
    others = [[generator.randrange(1000, 5000) for _ in range(20)] for _ in range(1000)]
    equal = list(range(50, 80))
    pairs, candidates = [], near_duplicates._candidates

    def count(*arguments: Any) -> Any:
        pairs.append(candidates(*arguments))
        return pairs[-1]

    monkeypatch.setattr(near_duplicates, "_candidates", count)
    duplicates = near_duplicates.find(
        write(tmp_path / "train.parquet", [*others, *[equal] * 600]),
        Place(str),
        write(tmp_path / "eval.parquet", [equal, others[7], equal, equal]),
        Place(str),
    )
    assert duplicates.rows == 4
    assert [(each.held_out, each.train) for each in duplicates.examples] == [
        ("0", "1000"),
        ("1", "7"),
        ("2", "1000"),
        ("3", "1000"),
    ]
    assert sum(map(len, pairs)) == 4  # the equal rows to train on are in three batches


def test_no_held_out_rows_and_short_rows_are_no_problem(tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", [[1], [1, 2], [], [1, 2, 3, 4]])
    empty = write(tmp_path / "eval.parquet", [])
    assert near_duplicates.find(train, Place(str), empty, Place(str)).rows == 0
    short = write(tmp_path / "short.parquet", [[1, 2], [], [1, 2, 3, 4]])
    assert near_duplicates.find(train, Place(str), short, Place(str)).rows == 0
