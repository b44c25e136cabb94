"""Fixtures of tests on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny_gemma


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a shape to the folder of its tiny model."""
    folders: dict[str, Path] = {}

    def make(shape: str) -> Path:
        if shape not in folders:
            folders[shape] = tiny_gemma.build(tmp_path_factory.mktemp("models") / shape, shape)
        return folders[shape]

    return make
