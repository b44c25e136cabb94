from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "home")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Where skipping is not allowed (GEMTUNE_TESTS_MAY_SKIP=no), a skipped test has failed: it proved nothing."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("GEMTUNE_TESTS_MAY_SKIP") == "no":
        report.outcome = "failed"
