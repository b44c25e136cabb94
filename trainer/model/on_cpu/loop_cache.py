"""The folder in which numba keeps the loops that it has compiled."""

from __future__ import annotations

import os
import tempfile

from gemtune.settings import cache_folder

CACHE = cache_folder() / "numba"


def choose_cache() -> None:
    """Name the folder to numba, which reads it when it is imported. One that is named already stays."""
    os.environ.setdefault("NUMBA_CACHE_DIR", _place_to_write())


def _place_to_write() -> str:
    """Beside the code, where numba would write, it need not be allowed. Where the cache is not to be had either, loops
    are compiled by each process, which takes two seconds."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=CACHE).close()
        return str(CACHE)
    except OSError:
        return tempfile.mkdtemp(prefix="gemtune-numba-")
