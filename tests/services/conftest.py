"""Fixtures that run each test of the use cases on both backends."""

from __future__ import annotations

import pytest

from tests.fakes import World


@pytest.fixture
def world(backend: World) -> World:
    return backend
