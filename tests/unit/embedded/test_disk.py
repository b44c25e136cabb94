"""A full or read-only disk: one kind of error, and log lines at intervals."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gemtune.embedded.disk import writing
from gemtune.errors import CannotStore
from gemtune.local_server.workflow_runner import WorkflowRunner
from gemtune.log_lines import SECONDS_BETWEEN_DISK_ERRORS, DiskErrorThrottle
from gemtune.ports import ExecutionState
from tests.fakes import World

WORKFLOW = Path(__file__).parent.parent.parent.parent / "workflows" / "fine_tune.yaml"


def test_a_full_database_raises_and_works_again_once_there_is_room(world: World) -> None:
    database = world.services.database
    pages = database.read().execute("PRAGMA page_count").fetchone()[0]
    database.read().execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(1000):
            world.submit(f"key {number}")

    with pytest.raises(CannotStore, match=r"gemtune\.db cannot be written: database or disk is full"):
        fill()
    database.read().execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert world.services.store.get(world.submit("another")).status == "queued"


def test_a_read_only_database_raises_cannot_store(world: World) -> None:
    world.services.database.read().execute("PRAGMA query_only = ON")
    with pytest.raises(CannotStore, match="attempt to write a readonly database"):
        world.submit()


@pytest.mark.parametrize(
    ("code", "is_disk_error"),
    [
        (sqlite3.SQLITE_FULL, True),
        (sqlite3.SQLITE_READONLY, True),
        (sqlite3.SQLITE_IOERR, True),
        (sqlite3.SQLITE_CANTOPEN, True),
        (sqlite3.SQLITE_PERM, True),
        (sqlite3.SQLITE_IOERR_WRITE, True),
        (sqlite3.SQLITE_READONLY_DIRECTORY, True),
        (sqlite3.SQLITE_BUSY, False),
        (sqlite3.SQLITE_CORRUPT, False),
    ],
)
def test_disk_errors_are_recognized_by_their_sqlite_code(code: int, is_disk_error: bool) -> None:
    error = sqlite3.OperationalError("any message")
    error.sqlite_errorcode = code
    with pytest.raises(CannotStore if is_disk_error else sqlite3.OperationalError), writing(Path("/home")):
        raise error


@pytest.mark.parametrize(
    "error", [OSError(errno.EEXIST, "exists"), ValueError(), sqlite3.OperationalError("no such table")]
)
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, writing(Path("/home")):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_objects_and_secrets_that_cannot_be_written_leave_no_files(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    objects, secrets = world.services.buckets.export, world.services.secrets
    secrets.create("gemtune-user-a", "fake", ttl=None)
    (tmp_path / "file").write_bytes(b"x")
    before = sorted(world.services.settings.home.rglob("*"))

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: objects.write("a", b"x"),
        lambda: objects.create("b", b"x"),
        lambda: objects.upload(tmp_path / "file", "c"),
        lambda: secrets.create("gemtune-user-b", "fake", ttl=None),
        lambda: secrets.renew("gemtune-user-a", ttl=timedelta(days=1)),
    ):
        with pytest.raises(CannotStore, match=os.strerror(number)):
            write()
    left = [path for path in sorted(world.services.settings.home.rglob("*")) if path.name != ".unfinished"]
    assert [path for path in left if path not in before] == []
    assert secrets.read("gemtune-user-a") == "fake"


def record(error: BaseException | None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, None)
    return logging.LogRecord("gemtune", logging.ERROR, "x.py", 1, "%s broke", ("it",), exc_info)


def test_the_log_reports_a_full_disk_at_intervals() -> None:
    seconds = [0.0]
    throttle = DiskErrorThrottle(now=lambda: seconds[0])
    wrapped = ValueError()
    wrapped.__cause__ = CannotStore("/home", "full")
    first = record(CannotStore("/home", "full"))
    assert throttle.filter(first)
    assert first.getMessage() == "/home cannot be written: full; make room there, or let the service write there"
    assert first.exc_info is None
    for _ in range(500):
        seconds[0] += 0.1
        assert not throttle.filter(record(wrapped))
    seconds[0] = SECONDS_BETWEEN_DISK_ERRORS
    later = record(CannotStore("/home", "full"))
    assert throttle.filter(later)
    assert "(500 more errors like this were not logged)" in later.getMessage()


def test_other_log_records_pass_unchanged() -> None:
    throttle = DiskErrorThrottle(now=lambda: 0.0)
    for error in (None, ValueError("x")):
        for _ in range(3):
            other = record(error)
            assert throttle.filter(other)
            assert (other.getMessage(), other.exc_info) == ("it broke", record(error).exc_info)


def test_an_execution_waits_while_the_disk_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from gemtune.embedded.sqlite_launcher import SqliteLauncher

    launcher = SqliteLauncher(world.services.database, clock=world.clock)
    execution = launcher.start("job", 1)
    tries: list[str] = []
    fails = threading.Event()

    def full(self: Any, execution: str, argument: object, environment: object) -> None:
        tries.append(execution)
        fails.set()
        raise CannotStore("/home", "full")

    monkeypatch.setattr(WorkflowRunner, "_interpret", full)
    runner = WorkflowRunner(launcher, jobs=None, source=WORKFLOW, control_url="", token="")  # type: ignore[arg-type]
    running = threading.Thread(target=runner.run)
    running.start()
    assert fails.wait(60)
    runner.stop()
    running.join(60)
    assert not running.is_alive()
    assert tries == [execution]
    assert launcher.state(execution) is ExecutionState.ACTIVE
