"""Lock of a GEMTUNE_HOME: only the process that has it is ever stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemtune.bootstrap import services
from gemtune.local_server import home_lock
from gemtune.local_server.home_lock import CannotServe, CannotStop, holder, locked
from tests.unit.cli.test_cli import run


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that has nothing to do with the service."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def fast_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    services.cache_clear()
    monkeypatch.setattr(home_lock, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(home_lock, "ATTEMPTS_TO_ASK", 2)


def test_the_holder_is_the_process_with_the_lock(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with locked(tmp_path):
        assert holder(tmp_path) == os.getpid()
        with pytest.raises(CannotServe), locked(tmp_path):
            pass
    assert holder(tmp_path) is None
    assert (tmp_path / "server.lock").read_text() == f"{os.getpid()}\n"


def test_a_process_that_only_has_the_written_id_is_left_alone(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    """The server runs in a container, or has not written its own id yet."""
    with locked(tmp_path):
        (tmp_path / "server.lock").write_text(f"{bystander.pid}\n")
        result = run("down", GEMTUNE_HOME=str(tmp_path))
    assert result.exit_code == 1
    assert "in the container" in result.stderr
    assert bystander.poll() is None


@pytest.mark.parametrize("written", ["", "0", "-1", "1" * 30, "\u0663", "a", "\x00", "99999999999"])
def test_no_process_is_found_by_anything_but_an_id(tmp_path: Path, written: str) -> None:
    with locked(tmp_path):
        (tmp_path / "server.lock").write_text(written)
        with pytest.raises(CannotStop):
            holder(tmp_path)


def test_an_id_that_a_crashed_server_left_stops_nothing(tmp_path: Path, bystander: subprocess.Popen[bytes]) -> None:
    (tmp_path / "server.lock").write_text(f"{bystander.pid}\n")
    result = run("down", GEMTUNE_HOME=str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, f"No service uses {tmp_path}\n")
    assert bystander.poll() is None
