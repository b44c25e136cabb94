"""Splits of a dataset by the names of its files: one rule, and no guessing."""

from __future__ import annotations

from typing import Any

import pytest

from gemtune.datasets.files.kinds import KINDS, kind_of
from gemtune.datasets.files.splits import BadSplits, Splits, of_files, of_metadata

HUB = [f"data/train-0000{n}-of-00003.parquet" for n in range(3)]


@pytest.mark.parametrize(
    ("names", "train", "held_out"),
    [
        (["train.jsonl"], ["train.jsonl"], []),
        (["training.csv", "valid.csv"], ["training.csv"], ["valid.csv"]),
        (["train.json", "val.json"], ["train.json"], ["val.json"]),
        (["train.tsv.gz", "dev.tsv.gz"], ["train.tsv.gz"], ["dev.tsv.gz"]),
        (["train.jsonl.zst", "validation.parquet"], ["train.jsonl.zst"], ["validation.parquet"]),
        (["train.jsonl", "evaluation.jsonl", "test.jsonl"], ["train.jsonl"], ["evaluation.jsonl"]),
        (["train.jsonl", "test.jsonl"], ["train.jsonl"], []),
        (["My Chats-Train.JSONL", "my_chats_eval.jsonl"], ["My Chats-Train.JSONL"], ["my_chats_eval.jsonl"]),
        (HUB[::-1], HUB, []),
        (
            ["train-1.csv", "train-10.csv", *(f"train-{n}.csv" for n in range(2, 10))],
            [f"train-{n}.csv" for n in range(1, 11)],
            [],
        ),
        (["train2.csv", "train3.csv"], ["train2.csv", "train3.csv"], []),
        (
            ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
            ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
            [],
        ),
        (
            ["train/b.csv", "train/aa.csv", "val/0001.csv", "val/0000.csv"],
            ["train/aa.csv", "train/b.csv"],
            ["val/0000.csv", "val/0001.csv"],
        ),
        (["chats.jsonl"], ["chats.jsonl"], []),
        (["chats.jsonl", "eval.jsonl", "a.txt", "a.job.json", "dataset_infos.json"], ["chats.jsonl"], ["eval.jsonl"]),
        (["part-00000.jsonl", "part-00001.jsonl"], ["part-00000.jsonl", "part-00001.jsonl"], []),
        (["chats.jsonl", "train.jsonl"], ["train.jsonl"], []),
        (["test-project/train.jsonl"], ["test-project/train.jsonl"], []),
        (["trainers.jsonl", "devices.txt"], ["trainers.jsonl"], []),
        (["test.jsonl"], [], []),
        (["metadata.json", ".jsonl", "picture.png"], [], []),
        ([], [], []),
    ],
)
def test_words_in_names_tell_the_splits(names: list[str], train: list[str], held_out: list[str]) -> None:
    splits = of_files(names)
    assert (list(splits.train), list(splits.held_out)) == (train, held_out)
    assert {*splits.train, *splits.held_out, *splits.unread} == {*names} - {"metadata.json"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.jsonl", "train.parquet"], "several candidates for training: train.jsonl, train.parquet"),
        (["train.jsonl", "training.jsonl"], "several candidates for training"),
        (["train.jsonl", "train-1.jsonl"], "several candidates for training"),
        (["train-v1.jsonl", "train-v2.jsonl"], "several candidates for training"),
        (["main/train-00000-of-00001.parquet", "socratic/train-00000-of-00001.parquet"], "several candidates"),
        (["train_sft.jsonl", "train_gen.jsonl"], "several candidates for training"),
        (["train.jsonl", "valid.jsonl", "eval.jsonl"], "several candidates for evaluation"),
        (["train/a.csv", "train/b.jsonl"], "several candidates for training"),
        (["train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"], "several candidates"),
        (["a.jsonl", "b.jsonl"], "no file is named for training"),
        (HUB[:1] + HUB[2:], "not the file with the number 1 of 3"),
        (HUB[:2], "not the file with the number 2 of 3"),
        (["train-1.csv", "train-3.csv"], "not the file with the number 2"),
        (["train-1.csv", "train-01.csv"], "the same number"),
        (["train-test.jsonl"], "tells two splits, test and train"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(BadSplits, match=message) as caught:
        of_files(names)
    assert caught.value.hint


def test_files_that_are_not_read_are_listed_and_descriptions_apart() -> None:
    splits = of_files(
        ["train.csv", "test.csv", "README.md", ".gitattributes", "notes.txt", "a.job.json", "pictures/1.png"]
    )
    assert splits.unexpected == ("notes.txt", "pictures/1.png", "test.csv")
    assert {*splits.unread} - {*splits.unexpected} == {"README.md", ".gitattributes", "a.job.json"}


def metadata(*splits: tuple[str, Any]) -> dict[str, Any]:
    return {"splits": [{"split_name": name, "path": path} for name, path in splits]}


def test_metadata_names_the_files_in_order_and_leaves_the_rest_unread() -> None:
    files = ["b.csv", "a.csv", "held.json.gz", "t.csv", "train.jsonl"]
    named = metadata(("train", ["b.csv", "folder/a.csv"]), ("Validation", "held.json.gz"), ("test", "t.csv"))
    splits = of_metadata(named, files, "folder")
    assert splits == Splits(("b.csv", "a.csv"), ("held.json.gz",), ("t.csv", "train.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no list `splits`"),
        (metadata(("train", "a.csv"), ("train", "b.csv")), "two splits 'train'"),
        (metadata(("train", "a.csv"), ("training", "b.csv")), "two splits for training"),
        (metadata(("val", "a.csv"), ("eval", "b.csv")), "two splits for evaluation"),
        (metadata(("train", "c.csv")), "does not have"),
        (metadata(("train", "x.txt")), "none of .jsonl"),
    ],
)
def test_metadata_that_contradicts_itself_or_the_files_is_refused(content: Any, message: str) -> None:
    with pytest.raises(BadSplits, match=message):
        of_metadata(content, ["a.csv", "b.csv", "x.txt"], "folder")


def test_every_kind_is_told_by_its_ending() -> None:
    assert len(KINDS) == len({kind.suffix for kind in KINDS}) == 16
    for kind in KINDS:
        assert kind_of(f"folder.csv/rows{kind.suffix.upper()}") == kind
    assert kind_of("rows.parquet.gz") is kind_of("rows.txt") is kind_of("rows.csv.bz2") is None
