"""The files of a dataset: a folder of the data bucket with one file per split, or a metadata.json that names them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

METADATA = "metadata.json"
TRAIN_NAMES = ("train", "training")
EVAL_NAMES = ("eval", "evaluation", "validation", "test")
KINDS = ("jsonl", "parquet")
# Files of which one is the train split where there is no metadata.json, the one that counts first.
TRAIN_FILES = tuple(f"{name}.{kind}" for name in TRAIN_NAMES for kind in reversed(KINDS))


class BadSplits(ValueError):
    """What says where the splits are says nothing of the kind, or leads to no file of rows."""


def folder_of(dataset_id: str) -> str:
    """The folder of a dataset in the data bucket."""
    return f"processed_datasets/{dataset_id}"


def by_metadata(metadata: Any) -> dict[str, str]:
    """split name -> path, by the content of a metadata.json. Raises BadSplits."""
    try:
        return {str(split["split_name"]): str(split["path"]) for split in metadata["splits"]}
    except (KeyError, TypeError):
        raise BadSplits("metadata.json has no list `splits` of {split_name, path}") from None


def by_names(names: Collection[str]) -> dict[str, str]:
    """split name -> path, by the names of the files in the folder. Of two files of a split the Parquet one counts."""
    known = [(split, f"{split}.{kind}") for split in (*TRAIN_NAMES, *EVAL_NAMES) for kind in KINDS]
    return {split: path for split, path in known if path in names}


def train_split(splits: Mapping[str, str]) -> str | None:
    """The path of the train split."""
    return next((splits[name] for name in TRAIN_NAMES if name in splits), None)


def eval_split(splits: Mapping[str, str]) -> str | None:
    """The path of the held-out split."""
    return next((splits[name] for name in EVAL_NAMES if name in splits), None)


def object_of(folder: str, path: str) -> str:
    """The object of a split, whose path may be relative to the dataset or to the bucket. Raises BadSplits."""
    if not path.endswith(tuple(f".{kind}" for kind in KINDS)):
        raise BadSplits(f"{path[:200]!r} is neither .jsonl nor .parquet")
    return path if path.startswith(f"{folder}/") else f"{folder}/{path}"
