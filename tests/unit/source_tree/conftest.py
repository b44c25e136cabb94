from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def garbage_is_not_collected() -> Iterator[None]:
    """Switch off garbage collection: syntax trees have no reference cycles.

    They are a million objects. Searching them again and again took a third of the time of these tests, and they stay
    for later ones.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()
