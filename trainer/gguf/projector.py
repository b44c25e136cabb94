"""What a GGUF export sees pictures with: whether the file beside the text model is whole.

llama.cpp reads it by a library that is not built here, so it is held against the weights that it was made from.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from trainer.base_model import vision_parts
from trainer.export.merge import weight_files
from trainer.gguf.file_layout import Entry, InvalidGguf, contents

# ggml's numbers of the types that the converter writes such a file in.
TYPES = {0: np.float32, 1: np.float16}


def check(path: Path, trained: Path) -> None:
    """Whether the file has every weight of the trained model that sees, and numbers in all of
    them. Raises InvalidGguf."""
    entries = contents(path).entries
    found, expected = sorted(entry.count for entry in entries), sorted(_sizes(trained))
    if found != expected:
        message = f"{path.name} has {len(found)} tensors of {sum(found)} values, not {len(expected)} of {sum(expected)}"
        raise InvalidGguf(message)
    for entry in entries:
        _check_values(path, entry)


def _check_values(path: Path, entry: Entry) -> None:
    if entry.kind not in TYPES:
        raise InvalidGguf(f"{entry.name} of {path.name} is of type {entry.kind}, which nothing here writes")
    try:
        values = np.memmap(path, TYPES[entry.kind], "r", entry.offset, entry.shape)
    except ValueError as error:  # the file ends before
        raise InvalidGguf(f"{path.name} is cut off in {entry.name}") from error
    # Where a layer of Gemma 4 clips nothing, its bounds are infinite.
    is_bound = entry.name.endswith(("_max", "_min"))
    if np.isnan(values).any() if is_bound else not np.isfinite(values).all():
        raise InvalidGguf(f"{entry.name} of {path.name} holds what is no number")


def _sizes(trained: Path) -> list[int]:
    from safetensors import safe_open

    sizes = []
    for path in weight_files(trained):
        with safe_open(path, framework="np") as file:
            names = [name for name in sorted(file.keys()) if set(name.split(".")) & set(vision_parts.NAMES)]
            sizes += [math.prod(file.get_slice(name).get_shape()) for name in names]
    return sizes
