"""Fixtures that run each test of the use cases on both backends."""

from __future__ import annotations

import pytest

from tests import memory
from tests.fakes import World

tmp_path = memory.tmp_path


@pytest.fixture
def world(backend: World) -> World:
    return backend
