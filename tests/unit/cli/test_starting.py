"""The offer to start a service on this machine, for a command that needs one."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import click
import psutil
import pytest

from gemtune.bootstrap import services
from gemtune.cli.connection import Connection, starting
from gemtune.local_server import home_lock
from tests.unit.cli.servers import running_servers
from tests.unit.cli.test_cli import run
from tests.unit.conftest import FakeService

NOTHING_THERE = "http://127.0.0.1:9"


@pytest.fixture
def confirm(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Answer questions in a terminal; by default with no."""
    monkeypatch.setattr(starting, "is_interactive", lambda: True)
    question = Mock(return_value=False)
    monkeypatch.setattr(click, "confirm", question)
    return question


def test_nothing_is_offered_where_a_service_answers_or_is_elsewhere(service: FakeService, confirm: Mock) -> None:
    service.answers["GET", "/health"] = (200, {"status": "healthy"})
    for url in (service.url, "https://gemtune.example", "http://127.0.0.1:9/below"):
        starting.offer_service(Connection(url, as_json=False))
    confirm.assert_not_called()


def test_nothing_is_asked_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Mock()
    monkeypatch.setattr(click, "confirm", question)
    starting.offer_service(Connection(NOTHING_THERE, as_json=False))
    question.assert_not_called()


def test_a_declined_offer_starts_nothing(confirm: Mock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEMTUNE_HOME", str(tmp_path / "home"))
    starting.offer_service(Connection(NOTHING_THERE, as_json=False))
    assert NOTHING_THERE in confirm.call_args.args[0]
    assert not (tmp_path / "home").exists()


def test_ctrl_c_at_the_offer_ends_as_everywhere(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\na,b\n")
    terminal, end = pty.openpty()
    # A shell that runs the tests in the background lets its children ignore Ctrl-C.
    main = "import signal; signal.signal(2, signal.default_int_handler); from gemtune.cli import main; main()"
    program = [sys.executable, "-P", "-c", main, "train", "--url", NOTHING_THERE]
    options = ["--data", str(tmp_path / "rows.csv"), "--model", "a/b"]
    process = subprocess.Popen([*program, *options], stdin=end, stdout=end, stderr=end)
    os.close(end)
    shown = b""
    while b"[Y/n]" not in shown:
        shown += os.read(terminal, 1024)
    while process.poll() is None:  # readline misses a signal that comes just before it waits
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
    assert process.returncode == 130
    os.close(terminal)


def test_an_accepted_offer_starts_a_service_that_goes_on(
    confirm: Mock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEMTUNE_HOME", str(tmp_path / "home"))
    confirm.return_value = True
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    connection = Connection(f"http://127.0.0.1:{port}", as_json=False)
    starting.offer_service(connection)
    printed = capsys.readouterr().err
    (server,) = running_servers()
    try:
        assert connection.ask("GET", "/health")["status"] == "healthy"
        assert "`gemtune down` stops it" in printed
        assert os.getpgid(server.pid) != os.getpgid(0), "Ctrl-C would stop it"
        assert home_lock.holder(tmp_path / "home") == server.pid
        services.cache_clear()
        stopped = run("down", GEMTUNE_HOME=str(tmp_path / "home"))
        assert (stopped.exit_code, "unfinished jobs continue" in stopped.stdout) == (0, True)
        assert server.wait(60) == 0
    finally:
        with suppress(psutil.NoSuchProcess):
            server.kill()
    assert home_lock.holder(tmp_path / "home") is None
    again = run("down", GEMTUNE_HOME=str(tmp_path / "home"))
    assert (again.exit_code, again.stdout) == (0, f"No service uses {tmp_path / 'home'}\n")


def test_a_service_that_does_not_start_shows_its_log(
    confirm: Mock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GEMTUNE_HOME", str(tmp_path / "home"))
    confirm.return_value = True
    monkeypatch.setattr(starting, "UP", ["-c", "print('broken on purpose')"])
    with pytest.raises(click.ClickException, match="broken on purpose"):
        starting.offer_service(Connection(NOTHING_THERE, as_json=False))
