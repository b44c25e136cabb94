from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes import World

if TYPE_CHECKING:
    from tests.emulators.google import Emulators

# Tiny models gain nothing from more threads, and threads that wait for each other burn what other processes need.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

GCP = pytest.param("gcp", marks=pytest.mark.emulators)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "home")


@pytest.fixture(scope="session")
def emulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulators]:
    """Firestore, Pub/Sub and Cloud Storage for all tests; skips where the Google Cloud SDK is not."""
    from tests.emulators.cloud import environment_with
    from tests.emulators.google import Emulators
    from tests.emulators.sdk import NoEmulators

    try:
        found = Emulators(tmp_path_factory.mktemp("emulators"))
    except NoEmulators as error:
        pytest.skip(str(error))
    with environment_with(found.environment):
        yield found
    found.stop()


@pytest.fixture(params=["embedded", GCP])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world on each backend: what a test asks of it is what the ports promise."""
    if request.param == "embedded":
        yield World(tmp_path / "home")
        return
    from tests.emulators.world import GcpWorld

    found = GcpWorld(tmp_path / "home", request.getfixturevalue("emulators"))
    yield found
    found.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skipped test as failed where skipping is not allowed (GEMTUNE_TESTS_MAY_SKIP=no): it proved nothing.

    What a test logged goes from process to process as UTF-8, and would end them all where it is not: tests of broken
    Unicode log it.
    """
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("GEMTUNE_TESTS_MAY_SKIP") == "no":
        report.outcome = "failed"
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
