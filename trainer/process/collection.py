"""Cheaper garbage collection while very many rows are read."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.process import imports

# New objects between two collections; Python's own default is 700.
NEW_OBJECTS = 10_000


@contextmanager
def only_new_objects_collected() -> Iterator[None]:
    """Collect, within the block, only what it creates, and less often.

    A collection looks at all objects, and at those of modules and a tokenizer again and again in vain. If the process
    has frozen its imports already (`trainer.process.imports`), they stay frozen, and nothing else is.
    """
    thresholds, freezes = gc.get_threshold(), not imports.is_frozen()
    if freezes:
        gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if freezes:
            gc.unfreeze()
