"""Faster imports of large libraries: no search for garbage among the objects that they leave behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Import without garbage collection, and freeze what was imported.

    Imports make hundreds of thousands of objects that stay. Looking for garbage among them takes a fifth of the time
    that importing transformers does, and half a second whenever it is done later, at Python's end too. For imports at
    the start of a process: garbage that exists by then is never collected. If nothing new is imported, nothing is
    frozen.
    """
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        if len(sys.modules) > modules:
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
