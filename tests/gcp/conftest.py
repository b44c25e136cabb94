from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.google import Emulators
from tests.emulators.world import GcpWorld


@pytest.fixture
def world(emulators: Emulators, tmp_path: Path) -> Iterator[GcpWorld]:
    """Yield a world on the emulators, which skips the tests without them."""
    world = GcpWorld(tmp_path, emulators)
    yield world
    world.stop()
