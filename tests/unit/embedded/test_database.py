"""The SQLite file under the concurrent access of many processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from gemtune.embedded.database import SCHEMA, WEBHOOKS, Database
from gemtune.errors import CannotStore

WRITER = """
import sys
from pathlib import Path
from gemtune.embedded.database import Database
from gemtune.errors import CannotStore
database = Database(Path(sys.argv[1]))
for number in range(20):
    with database.write() as connection:
        connection.execute("INSERT INTO idempotency_keys VALUES (?, 'x')", (f"{sys.argv[2]}-{number}",))
"""


def count(database: Database) -> int:
    return int(database.read().execute("SELECT count(*) FROM idempotency_keys").fetchone()[0])


def test_eight_processes_create_and_fill_one_file(tmp_path: Path) -> None:
    path = tmp_path / "gemtune.db"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in range(8)]
    assert [writer.wait(60) for writer in writers] == [0] * 8
    assert count(Database(path)) == 160


def test_writes_are_durable_and_readers_do_not_wait_for_writers(tmp_path: Path) -> None:
    database = Database(tmp_path / "gemtune.db")
    modes = [database.read().execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]
    counts: list[int] = []
    with database.write() as connection:
        connection.execute("INSERT INTO idempotency_keys VALUES ('a', 'x')")
        reader = threading.Thread(target=lambda: counts.append(count(database)))
        reader.start()
        reader.join(60)
    assert counts == [0]
    assert count(database) == 1


def test_a_transaction_that_raises_is_rolled_back(tmp_path: Path) -> None:
    database = Database(tmp_path / "gemtune.db")

    def fails() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO idempotency_keys VALUES ('a', 'x')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert count(database) == 0
    with database.write():
        inner = database.write()
        with pytest.raises(sqlite3.OperationalError):  # transactions do not nest
            inner.__enter__()


def test_after_a_full_disk_the_same_thread_can_write_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "gemtune.db")
    database.read().execute("PRAGMA max_page_count = 60")

    def write(size: int) -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO idempotency_keys VALUES (?, ?)", (str(size), "x" * size))

    with pytest.raises(CannotStore, match="full"):
        write(1_000_000)
    write(1)
    assert count(database) == 1


def test_after_a_commit_that_fails_the_same_thread_can_write_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "gemtune.db")
    connection = database.read()
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE b (id INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)")

    def orphan() -> None:
        with database.write() as writing:
            writing.execute("INSERT INTO b VALUES (5)")

    for _ in range(2):
        with pytest.raises(sqlite3.IntegrityError):
            orphan()
    assert connection.execute("SELECT count(*) FROM b").fetchone()[0] == 0


def test_opening_a_new_file_waits_for_the_writer_that_locks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry in our code: SQLite's busy timeout does not apply here."""
    path = tmp_path / "gemtune.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waited = []

    def release(seconds: float) -> None:
        waited.append(seconds)
        if other.in_transaction:
            other.execute("COMMIT")

    monkeypatch.setattr("gemtune.embedded.database.time.sleep", release)
    assert count(Database(path)) == 0
    assert waited
    other.close()


def test_only_the_owner_can_read_the_database_and_its_journals(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        database = Database(tmp_path / "gemtune.db")
        database.read().execute("SELECT count(*) FROM sqlite_master").fetchone()
        files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert set(files) == {"gemtune.db", "gemtune.db-wal", "gemtune.db-shm"}
    assert set(files.values()) == {0o600}


def test_migrating_a_file_of_an_older_version_keeps_its_data(tmp_path: Path) -> None:
    path = tmp_path / "gemtune.db"
    with sqlite3.connect(path) as connection:
        for migration in (SCHEMA, WEBHOOKS):
            connection.executescript(migration)
        connection.execute("PRAGMA user_version = 2")
        connection.execute("INSERT INTO jobs VALUES ('a', '2026-11-24', 'training', 'text', 1, 1, 1, '{}')")
        connection.execute("INSERT INTO messages VALUES (1, 'webhooks', '', '{}', x'', 5.0)")
        connection.execute("INSERT INTO deliveries VALUES ('notify', 1, '', 3, 9.0)")
        for job_id in ("a", "deleted"):
            connection.execute(
                "INSERT INTO executions VALUES (?, ?, 1, 'active', NULL, '2026-11-24')", (f"of-{job_id}", job_id)
            )
        for name, ended in (("running", 0), ("over", 1)):
            connection.execute("INSERT INTO step_executions VALUES (?, '[]', 7, 1.0, ?)", (name, ended))
    connection.close()
    database = Database(path)
    rows = lambda query: [tuple(row) for row in database.read().execute(query)]  # noqa: E731
    assert rows("SELECT due_at, set_at, attempts FROM deliveries") == [(9.0, 0.0, 3)]
    assert rows("SELECT execution FROM executions") == [("of-a",)]
    assert rows("SELECT name, pid, job_id FROM step_executions") == [("running", 7, "")]
    assert rows("PRAGMA user_version") == [(4,)]


def test_only_a_write_that_is_not_durable_skips_the_sync(tmp_path: Path) -> None:
    database = Database(tmp_path / "gemtune.db")
    modes = []
    for durable in (True, False, True):
        with database.write(durable=durable) as connection:
            modes.append(connection.execute("PRAGMA synchronous").fetchone()[0])
    assert modes == [2, 1, 2]  # FULL, NORMAL


@pytest.mark.parametrize("elsewhere", ["thread", "process"])
def test_a_commit_wakes_those_who_wait_for_a_change(tmp_path: Path, elsewhere: str) -> None:
    path = tmp_path / "gemtune.db"
    database = Database(path)
    version = database.version()
    database.wait_for_newer(version, 0)
    assert database.version() == version

    def write() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO tombstones VALUES ('job', 'then')")

    code = f"""
from pathlib import Path
from gemtune.embedded.database import Database
with Database(Path({str(path)!r})).write() as connection:
    connection.execute("INSERT INTO tombstones VALUES ('job', 'then')")
"""
    other = threading.Thread(
        target=write if elsewhere == "thread" else partial(subprocess.run, [sys.executable, "-c", code])
    )
    other.start()
    database.wait_for_newer(version, 200.0)
    assert database.version() != version
    other.join()
    assert database.read().execute("SELECT count(*) FROM tombstones").fetchone()[0] == 1
