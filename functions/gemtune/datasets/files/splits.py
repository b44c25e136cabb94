"""Splits of a dataset: which of its files are trained on, and which held out.

A dataset is a folder. Its metadata.json names the files of the splits; without one, their names do. A word in the name
of a file tells its split, or else a word in the name of the nearest folder. Words are what is between characters that
are no letters: `my_chats-train.csv` and `data/train-00000-of-00002.parquet` both belong to the train split.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gemtune.datasets.files.kinds import KINDS, FileKind, is_description, kind_of

METADATA = "metadata.json"
# Folder of the data bucket that has a folder for each dataset.
FOLDER = "processed_datasets"
Split = Literal["train", "held_out", "test"]
# Words for each split. The test split is not read: it is for what the user measures after all choices are made.
WORDS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "held_out": ("valid", "val", "dev", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
# `train-00003-of-00012`, also with the 16 digits that older writers of the Hub add, `train_3`, `train3` and `0003`. The
# 2 of `train-v2` does not number parts: versions of one file must not be read one after the other.
_NUMBERED = re.compile(
    rf"((?P<base>.*?)[-._ ]|(?P<word>{'|'.join(_SPLIT_OF)}|))"
    r"(?P<number>[0-9]{1,18})(-of-(?P<total>[0-9]{1,18})(-[0-9a-f]{16})?)?",
    re.IGNORECASE,
)
NAMED_IN_MESSAGES = 5


class BadSplits(ValueError):
    """Raised when the files of a dataset do not tell its splits.

    hint: what its owner can do.
    """

    def __init__(self, message: str, hint: str = "correct the dataset's files"):
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Splits:
    """Files of the splits, in the order in which they are read.

    Paths are relative to the dataset's folder. train: empty if no file is named for training. unread: the other files.
    train_rows, held_out_rows: how many rows a metadata.json states.
    """

    train: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    train_rows: int | None = None
    held_out_rows: int | None = None

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Return the unread files that do not merely describe the dataset."""
        return tuple(path for path in self.unread if not is_description(path))

    def why_no_train_split(self, dataset_id: str) -> str:
        """Return the message about a dataset without a train split."""
        others = self.unexpected or self.held_out or self.unread
        names = f"; it has {in_words(others)}" if others else ""
        return f"dataset {dataset_id!r} has no train split{names}"


def folder_of(dataset_id: str) -> str:
    """Return the folder of a dataset in the data bucket."""
    return f"{FOLDER}/{dataset_id}"


def of_files(paths: Collection[str]) -> Splits:
    """Return the splits of a dataset by the names of its files.

    paths: relative to the dataset's folder. If no file is named for training, the only file with rows and without a
    split in its name is the train split. Raises BadSplits if a split has two candidates, or lacks a numbered part.
    """
    by_split: dict[Split | None, dict[tuple[object, ...], _Candidate]] = {}
    for path in sorted(paths):
        kind = kind_of(path)
        if kind is not None:
            split, candidate = _candidate_of(path, kind)
            by_split.setdefault(split, {}).setdefault(candidate.key, candidate).paths.append(path)
    train = _only(by_split.get("train", {}), "training")
    if not train:
        train = _only(by_split.get(None, {}), None)
    held_out = _only(by_split.get("held_out", {}), "evaluation")
    return Splits(train, held_out, tuple(sorted({*paths} - {*train, *held_out, METADATA})))


def by_metadata(metadata: Any) -> dict[str, tuple[str, ...]]:
    """Return split name -> paths from the content of a metadata.json.

    Raises BadSplits.
    """
    named: dict[str, tuple[str, ...]] = {}
    try:
        for split in metadata["splits"]:
            name, path = str(split["split_name"]), split["path"]
            if name in named:
                raise BadSplits(f"metadata.json has two splits {name[:80]!r}", "give one split all paths, as a list")
            named[name] = tuple(map(str, path)) if isinstance(path, list) else (str(path),)
    except (KeyError, TypeError):
        raise BadSplits("metadata.json has no list `splits` of {split_name, path}") from None
    return named


def of_metadata(metadata: Any, paths: Collection[str], folder: str) -> Splits:
    """Return the splits that a metadata.json names.

    paths: the dataset's files, relative to its folder. folder: the dataset's folder in the data bucket, with which the
    paths in metadata.json may begin. Raises BadSplits.
    """
    chosen: dict[Split, tuple[str, ...]] = {}
    for name, files in by_metadata(metadata).items():
        split = _SPLIT_OF.get(name.casefold())
        if split is None or split == "test":
            continue
        if split in chosen:
            raise BadSplits(f"metadata.json has two splits for {_PURPOSE[split]}", "keep one of them")
        chosen[split] = tuple(path.removeprefix(f"{folder}/") for path in files)
        for path in chosen[split]:
            if kind_of(path) is None:
                endings = ", ".join(kind.suffix for kind in KINDS)
                raise BadSplits(f"metadata.json names {path[:200]!r}, which is none of {endings}")
            if path not in paths:
                raise BadSplits(f"metadata.json names the file {path[:200]!r}, which the dataset does not have")
    train, held_out = chosen.get("train", ()), chosen.get("held_out", ())
    rows = _stated_rows(metadata)
    unread = tuple(sorted({*paths} - {*train, *held_out, METADATA}))
    return Splits(train, held_out, unread, rows.get("train"), rows.get("held_out"))


def _stated_rows(metadata: Any) -> dict[Split, int]:
    """Return the numbers of rows that a metadata.json states."""
    stated = {_SPLIT_OF.get(str(split["split_name"]).casefold()): split.get("num_rows") for split in metadata["splits"]}
    return {split: rows for split, rows in stated.items() if split is not None and isinstance(rows, int)}


def in_words(paths: Sequence[str]) -> str:
    """Return the first paths of a list as text, with the number of others."""
    more = len(paths) - NAMED_IN_MESSAGES
    names = ", ".join(path[:200] for path in paths[:NAMED_IN_MESSAGES])
    return names if more <= 0 else f"{names} and {more} more"


_PURPOSE: Mapping[Split | None, str] = {"train": "training", "held_out": "evaluation", "test": "testing"}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Files that together may be one split.

    key: what their names have in common. total: the number of files that their names state.
    """

    key: tuple[object, ...]
    total: int | None
    paths: list[str] = field(default_factory=list)

    def in_order(self) -> tuple[str, ...]:
        """Return the files in the order of their numbers.

        Raises BadSplits if one is missing or there twice.
        """
        paths = sorted(self.paths, key=_natural)
        numbers = [number for path in paths if (number := _number_of(path)) is not None]
        if len(numbers) != len(paths):
            return tuple(paths)
        expected, present = range(numbers[0], numbers[-1] + 1), {*numbers}
        if self.total is not None:
            expected = range(self.total)
        if len(present) < len(numbers):
            raise BadSplits(f"two of these files have the same number: {in_words(paths)}", "keep one of them")
        if (absent := next((number for number in expected if number not in present), None)) is not None:
            of_all = f" of {self.total}" if self.total is not None else ""
            message = f"the dataset has {in_words(paths)}, but not the file with the number {absent}{of_all}"
            raise BadSplits(message, "upload the missing file, or name the files in metadata.json")
        return tuple(paths)


def _only(candidates: Mapping[tuple[object, ...], _Candidate], purpose: str | None) -> tuple[str, ...]:
    """Return the files of the only candidate; () without one.

    purpose: what the split is for, or None for files whose names do not tell a split. Raises BadSplits if there are
    several.
    """
    if len(candidates) > 1:
        names = in_words([path for candidate in candidates.values() for path in candidate.in_order()])
        if purpose is None:
            message = f"no file is named for training, and there are several with rows: {names}"
            raise BadSplits(message, "name one of them train, e.g. train.jsonl, or name the files in metadata.json")
        hint = "keep one of them, or name the files in metadata.json"
        raise BadSplits(f"there are several candidates for {purpose}: {names}", hint)
    return next((candidate.in_order() for candidate in candidates.values()), ())


def _candidate_of(path: str, kind: FileKind) -> tuple[Split | None, _Candidate]:
    """Return the split that a file's name tells, and its candidate.

    All files of one kind in a folder that is named for a split belong together, and so do numbered files. Raises
    BadSplits if a name tells two splits.
    """
    folder, _, name = path.rpartition("/")
    stem = name[: -len(kind.suffix)]
    numbered = _NUMBERED.fullmatch(stem)
    base = stem if numbered is None else numbered["base"] or numbered["word"] or ""
    total = int(numbered["total"]) if numbered is not None and numbered["total"] else None
    split = _split_in(base, path)
    if split is None:
        for parent in reversed(folder.split("/")):
            if (split := _split_in(parent, path)) is not None:
                return split, _Candidate((folder, kind, total), total)
    return split, _Candidate((folder, base, kind, numbered is None, total), total)


def _split_in(text: str, path: str) -> Split | None:
    """Return the split that the words of a name tell. Raises BadSplits."""
    named = {_SPLIT_OF[word] for word in re.findall(r"[^\W\d_]+", text.casefold()) if word in _SPLIT_OF}
    if len(named) > 1:
        hint = "rename it, or name the files in metadata.json"
        raise BadSplits(f"the name {path[:200]!r} tells two splits, {' and '.join(sorted(named))}", hint)
    return next(iter(named), None)


def _number_of(path: str) -> int | None:
    kind = kind_of(path)
    name = path.rpartition("/")[2]
    numbered = None if kind is None else _NUMBERED.fullmatch(name[: -len(kind.suffix)])
    return None if numbered is None else int(numbered["number"])


def _natural(path: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by their value."""
    parts = re.split(r"0*([0-9]+)", path)  # texts and numbers in turn
    return [(len(part) if index % 2 else 0, part) for index, part in enumerate(parts)]
