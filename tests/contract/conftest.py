"""Fixtures for the contract tests, which run on every backend.

They check what a port promises, and nothing about how a backend does it.
"""

from __future__ import annotations

import pytest

from gemtune.ports import Bus, JobStore, Objects, Secrets
from tests import memory
from tests.fakes import FakeClock, World

tmp_path = memory.tmp_path


@pytest.fixture
def clock(backend: World) -> FakeClock:
    return backend.clock


@pytest.fixture
def store(backend: World) -> JobStore:
    return backend.services.store


@pytest.fixture
def bus(backend: World) -> Bus:
    return backend.services.bus


@pytest.fixture
def objects(backend: World) -> Objects:
    return backend.services.buckets.export


@pytest.fixture
def secret_store(backend: World) -> Secrets:
    return backend.services.secrets
