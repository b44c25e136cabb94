"""The folder in which numba caches the compiled loops."""

from __future__ import annotations

import os
import tempfile

from gemtune.settings import cache_folder

CACHE = cache_folder() / "numba"


def configure_numba_cache() -> None:
    """Set NUMBA_CACHE_DIR, unless it is set. Call before importing numba."""
    os.environ.setdefault("NUMBA_CACHE_DIR", _writable_folder())


def _writable_folder() -> str:
    """Return gemtune's cache folder, or a temporary one if it is not writable.

    numba would write next to the code, which may be read-only. With a temporary folder every process compiles the loops
    itself, which takes two seconds.
    """
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=CACHE).close()
        return str(CACHE)
    except OSError:
        return tempfile.mkdtemp(prefix="gemtune-numba-")
