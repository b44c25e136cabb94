"""Splits of a dataset, which is a folder of the data bucket.

The folder has one file per split with a known name, or a metadata.json that names the files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

METADATA = "metadata.json"
# Names of the train split and of the held-out split. The first one that exists counts.
TRAIN_NAMES = ("train", "training")
EVAL_NAMES = ("eval", "evaluation", "validation", "test")
KINDS = ("jsonl", "parquet")
# Possible files of the train split without a metadata.json. The first one that exists counts.
TRAIN_FILES = tuple(f"{name}.{kind}" for name in TRAIN_NAMES for kind in reversed(KINDS))


class BadSplits(ValueError):
    """Raised when metadata.json lists no splits, or an unsupported file."""


def folder_of(dataset_id: str) -> str:
    """Return the folder of a dataset in the data bucket."""
    return f"processed_datasets/{dataset_id}"


def by_metadata(metadata: Any) -> dict[str, str]:
    """Return split name -> path from the content of a metadata.json.

    Raises BadSplits.
    """
    try:
        return {str(split["split_name"]): str(split["path"]) for split in metadata["splits"]}
    except (KeyError, TypeError):
        raise BadSplits("metadata.json has no list `splits` of {split_name, path}") from None


def by_names(names: Collection[str]) -> dict[str, str]:
    """Return split name -> path by the names of the files in the folder.

    If a split has two files, the Parquet file counts.
    """
    candidates = [(split, f"{split}.{kind}") for split in (*TRAIN_NAMES, *EVAL_NAMES) for kind in KINDS]
    return {split: path for split, path in candidates if path in names}


def train_split(splits: Mapping[str, str]) -> str | None:
    """Return the path of the train split, or None."""
    return next((splits[name] for name in TRAIN_NAMES if name in splits), None)


def eval_split(splits: Mapping[str, str]) -> str | None:
    """Return the path of the held-out split, or None."""
    return next((splits[name] for name in EVAL_NAMES if name in splits), None)


def object_of(folder: str, path: str) -> str:
    """Return the name of a split's object in the data bucket.

    path: relative to the folder of the dataset, or to the bucket. Raises BadSplits.
    """
    if not path.endswith(tuple(f".{kind}" for kind in KINDS)):
        raise BadSplits(f"{path[:200]!r} is neither .jsonl nor .parquet")
    return path if path.startswith(f"{folder}/") else f"{folder}/{path}"
