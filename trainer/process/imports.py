"""Faster imports of large libraries, by pausing garbage collection."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_is_frozen = False


def freeze() -> None:
    """Take all objects that exist now out of garbage collections."""
    global _is_frozen
    gc.freeze()
    _is_frozen = True


def is_frozen() -> bool:
    """Return whether `freeze` was called.

    `gc.get_freeze_count` would go through all frozen objects, which takes 50 ms after an import of transformers.
    """
    return _is_frozen


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Import without garbage collection, and freeze what was imported.

    Imports create hundreds of thousands of objects that stay. Scanning them takes a fifth of the time of importing
    transformers, and half a second in each later collection, including the one at exit. For imports at the start of a
    process: garbage that exists by then is never collected. If no module is imported, nothing is frozen.
    """
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        if len(sys.modules) > modules:
            freeze()
    finally:
        if was_enabled:
            gc.enable()
