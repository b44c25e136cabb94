"""Check of a GGUF export's vision encoder (`mmproj`).

llama.cpp runs it with a library that is not built here, so its tensors are compared with the weights of the trained
model instead.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from trainer.base_model import folder_contents, vision_parts
from trainer.gguf.file_layout import Entry, InvalidGguf, contents

# ggml's numbers of the types that the converter writes.
TYPES = {0: np.float32, 1: np.float16}


def check(path: Path, trained: Path) -> None:
    """Check that the file has all vision weights of the trained model.

    Tensors are compared by their sizes, and their values must be numbers. Raises InvalidGguf.
    """
    entries = contents(path).entries
    sizes, expected = sorted(entry.count for entry in entries), sorted(_sizes(trained))
    if sizes != expected:
        message = f"{path.name} has {len(sizes)} tensors of {sum(sizes)} values, not {len(expected)} of {sum(expected)}"
        raise InvalidGguf(message)
    for entry in entries:
        _check_values(path, entry)


def _check_values(path: Path, entry: Entry) -> None:
    if entry.kind not in TYPES:
        raise InvalidGguf(f"{entry.name} of {path.name} has the unexpected type {entry.kind}")
    try:
        values = np.memmap(path, TYPES[entry.kind], "r", entry.offset, entry.shape)
    except ValueError as error:  # the file ends inside the tensor
        raise InvalidGguf(f"{path.name} is cut off in {entry.name}") from error
    # Layers of Gemma 4 that do not clip have infinite bounds.
    is_bound = entry.name.endswith(("_max", "_min"))
    if np.isnan(values).any() if is_bound else not np.isfinite(values).all():
        raise InvalidGguf(f"{entry.name} of {path.name} has values that are not numbers")


def _sizes(trained: Path) -> list[int]:
    """Return the number of values of each vision weight of the trained model."""
    from safetensors import safe_open

    sizes = []
    for path in folder_contents.weight_files(trained):
        with safe_open(path, framework="np") as file:
            names = [name for name in sorted(file.keys()) if set(name.split(".")) & set(vision_parts.NAMES)]
            sizes += [math.prod(file.get_slice(name).get_shape()) for name in names]
    return sizes
