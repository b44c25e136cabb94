"""The SQLite database of the embedded backend.

One file below GEMTUNE_HOME holds records, events, messages and executions. The server and the trainers share it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemtune.embedded.disk import make_folder, writing
from gemtune.errors import GemtuneError

# Seconds between two polls for commits of other processes. A poll takes microseconds.
POLL_SECONDS = 0.02
# Seconds that a writer waits for another writer. A transaction takes milliseconds, so this is only exceeded if the disk
# fails.
BUSY_TIMEOUT = 30.0

SCHEMA = """
CREATE TABLE jobs (
  job_id TEXT PRIMARY KEY, created_at TEXT NOT NULL, status TEXT NOT NULL, modality TEXT NOT NULL,
  version INTEGER NOT NULL, last_seq INTEGER NOT NULL, published_seq INTEGER NOT NULL, record TEXT NOT NULL);
CREATE INDEX jobs_by_age ON jobs (created_at, job_id);
CREATE INDEX jobs_by_status ON jobs (status, created_at, job_id);
CREATE INDEX jobs_by_modality ON jobs (modality, created_at, job_id);
CREATE INDEX jobs_by_status_and_modality ON jobs (status, modality, created_at, job_id);
CREATE INDEX jobs_lagging ON jobs (job_id) WHERE published_seq < last_seq;
CREATE TABLE events (
  job_id TEXT NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (job_id, seq)) WITHOUT ROWID;
CREATE TABLE idempotency_keys (key TEXT PRIMARY KEY, job_id TEXT NOT NULL);
CREATE TABLE tombstones (job_id TEXT PRIMARY KEY, until TEXT NOT NULL);

-- path: NULL for a pull subscription; of a push subscription, the URL path to which older versions deliver.
CREATE TABLE subscriptions (name TEXT PRIMARY KEY, topic TEXT NOT NULL, path TEXT);
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, ordering_key TEXT NOT NULL, attributes TEXT NOT NULL,
  body BLOB NOT NULL, published_at REAL NOT NULL);
CREATE TABLE deliveries (
  subscription TEXT NOT NULL, message INTEGER NOT NULL, ordering_key TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, due_at REAL NOT NULL, PRIMARY KEY (subscription, message)) WITHOUT ROWID;
CREATE INDEX deliveries_by_key ON deliveries (subscription, ordering_key, message);
CREATE INDEX deliveries_by_message ON deliveries (message);
CREATE TABLE dead_letters (
  subscription TEXT NOT NULL, message INTEGER NOT NULL, topic TEXT NOT NULL, ordering_key TEXT NOT NULL,
  attributes TEXT NOT NULL, body BLOB NOT NULL, attempts INTEGER NOT NULL, error TEXT NOT NULL, at REAL NOT NULL);
INSERT INTO subscriptions VALUES
  ('dispatch', 'job-requests', '/dispatch/projects/local/topics/job-requests'),
  ('fan_out', 'trigger:documents', '/fan_out/'),
  ('ingest', 'trigger:objects', '/ingest/');

CREATE TABLE executions (
  execution TEXT PRIMARY KEY, job_id TEXT NOT NULL, launch INTEGER NOT NULL, state TEXT NOT NULL, error TEXT,
  started_at TEXT NOT NULL, UNIQUE (job_id, launch));
CREATE TABLE step_executions (
  name TEXT PRIMARY KEY, arguments TEXT NOT NULL, pid INTEGER, started REAL, ended INTEGER NOT NULL DEFAULT 0);
CREATE INDEX step_executions_alive ON step_executions (arguments) WHERE ended = 0;
CREATE TABLE uploads_seen (bucket TEXT NOT NULL, name TEXT NOT NULL, generation TEXT NOT NULL,
  PRIMARY KEY (bucket, name)) WITHOUT ROWID;
"""
WEBHOOKS = "INSERT INTO subscriptions VALUES ('notify', 'webhooks', '/notify/projects/local/topics/webhooks');"
# deliveries.set_at: the time at which `due_at` was set. If it is in the future, the clock was set back since, and the
# delivery is due at once. A row of step_executions exists as long as the step's process, which has the row's name in
# its environment.
LIFETIMES = """
ALTER TABLE deliveries ADD COLUMN set_at REAL NOT NULL DEFAULT 0;
DELETE FROM executions WHERE job_id NOT IN (SELECT job_id FROM jobs);
DELETE FROM step_executions WHERE ended = 1;
DROP INDEX step_executions_alive;
ALTER TABLE step_executions DROP COLUMN ended;
ALTER TABLE step_executions DROP COLUMN started;
ALTER TABLE step_executions ADD COLUMN job_id TEXT NOT NULL DEFAULT '';
CREATE INDEX step_executions_by_arguments ON step_executions (arguments);
"""
SHARED = "CREATE TABLE shared (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;"
# SQL scripts by schema version: MIGRATIONS[n] brings a file from version n (`PRAGMA user_version`) to n + 1.
MIGRATIONS = (SCHEMA, WEBHOOKS, LIFETIMES, SHARED)


class CannotOpen(GemtuneError):
    """Raised if a newer version of gemtune has written the database."""

    code = "cannot_open"


class _ThreadState(threading.local):
    """State of one thread: its connection, once it has one.

    is_durable: whether its commits wait for the disk; None before the first one.
    """

    connection: sqlite3.Connection | None = None
    is_durable: bool | None = None


class Database:
    """Connections to the database file, one per thread.

    Every write is one transaction, durable by default. `wait_for_newer` notices commits of this process at once and
    those of other processes by polling.
    """

    def __init__(self, path: Path):
        """Open or create the file and migrate it to the current schema.

        Raises CannotOpen, CannotStore.
        """
        make_folder(path.parent)
        with writing(path):
            if not path.exists():
                # Private, as SQLite then makes its journals: records hold webhook URLs, which may contain tokens.
                path.touch(mode=0o600)
        self.path = path
        self._local = _ThreadState()
        self._commits, self._committed = 0, threading.Condition()
        with self.write() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                message = f"{path} was written by a newer version of gemtune"
                raise CannotOpen(message, hint="use that version, or set GEMTUNE_HOME to another folder")
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(";\n"):
                    connection.execute(statement)
            if version != len(MIGRATIONS):  # setting it writes to the file, even if the value is the same
                connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def read(self) -> sqlite3.Connection:
        """Return this thread's connection for queries.

        Each statement sees a consistent snapshot.
        """
        connection = self._local.connection
        if connection is None:
            with writing(self.path):  # readers write too, to the shared memory of the write-ahead log
                connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
                connection.row_factory = sqlite3.Row
                _write_ahead(connection)
            self._local.connection = connection
        return connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction, committed at its end.

        BEGIN IMMEDIATE takes the write lock first, so no other writer can change what the block reads. With `durable`,
        the commit is on disk when the block ends. Without it, a power failure may lose the commit, together with all
        later ones; the crash of a process does not. Raises CannotStore if the disk is full or read-only.
        """
        connection = self.read()
        with writing(self.path):
            if self._local.is_durable is not durable:
                connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._local.is_durable = durable
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite has rolled back by itself if the disk is full
                    connection.execute("ROLLBACK")
                raise
        with self._committed:
            self._commits += 1
            self._committed.notify_all()

    def version(self) -> tuple[int, int]:
        """Return a value that changes with each commit of any process.

        Compare it only with values of the same thread.
        """
        return self._commits, self.read().execute("PRAGMA data_version").fetchone()[0]

    def wait_for_newer(self, version: tuple[int, int], seconds: float) -> None:
        """Wait at most `seconds` until `version()` differs from `version`."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0 and self.version() == version:
            with self._committed:
                if self._commits == version[0]:
                    self._committed.wait(min(POLL_SECONDS, remaining))

    def close(self) -> None:
        """Close this thread's connection."""
        if self._local.connection is not None:
            self._local.connection.close()
            self._local.connection = self._local.is_durable = None


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the database to a write-ahead log (WAL).

    When several processes open a new file at the same time, one of them switches it. SQLite fails at once in the others
    instead of waiting, so they try again here.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
