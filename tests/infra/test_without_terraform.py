"""Without Terraform: one clear error, and no installs for skipped tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.offline import ROOT


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment without Terraform, network and a filled cache."""
    environment = {name: value for name, value in os.environ.items() if name != "GEMTUNE_TESTS_MAY_SKIP"}
    cache = {"GEMTUNE_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}
    return environment | cache | {"PATH": str(tmp_path), "PYTHONPATH": f"{ROOT / 'functions'}:{ROOT}"}


def test_the_error_of_a_plan_names_the_missing_program(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tests.infra.offline", "plan"]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("there is no terraform on the PATH: install Terraform 1.9 or later")
    assert ran.stderr.count("\n") == 1


def test_checkov_is_neither_installed_nor_run(environment: dict[str, str], tmp_path: Path) -> None:
    tests = ["-q", "-rs", "-p", "no:cacheprovider", "tests/infra/test_checkov.py"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *tests], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "1 skipped" in ran.stdout, ran.stdout
    assert "there is no terraform on the PATH" in ran.stdout
    assert not (tmp_path / "cache").exists()
