"""The one SQLite file below GEMTUNE_HOME: records, events, messages, executions. Server and trainers share it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gemtune.embedded.disk import make_folder, writing
from gemtune.errors import GemtuneError

# Seconds between two looks for what other processes have committed. One look takes microseconds.
LOOK_SECONDS = 0.02
# Seconds a writer waits for another one. A transaction takes milliseconds; minutes would mean a dead disk.
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

-- path: where a push subscription is delivered; NULL for one that is pulled.
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
# set_at: when `due_at` was set. A delivery is due, too, where that is later than now: the clock was set back since.
# A step's row is there for as long as its process, which has the row's name in its environment.
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
# Each brings a file from the version before it, its place in this list, to its own.
MIGRATIONS = (SCHEMA, WEBHOOKS, LIFETIMES)


class CannotOpen(GemtuneError):
    """The file is not one that this version may write."""

    code = "cannot_open"


class _OfThread(threading.local):
    """connection: this thread's, once it has asked for one."""

    connection: sqlite3.Connection | None = None


class Database:
    """Connections to the file, one per thread. Every write is one transaction, durable when it returns unless that is
    not asked for. Whoever waits for a change is woken by one of this process, and soon sees one of another."""

    def __init__(self, path: Path):
        make_folder(path.parent)
        with writing(path):
            if not path.exists():
                path.touch(mode=0o600)  # records name webhooks, whose paths may be tokens; so may its journals
        self.path = path
        self._local = _OfThread()
        self._commits, self._committed = 0, threading.Condition()
        with self.write() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise CannotOpen(f"{path} was written by a newer gemtune", hint="use that one, or another GEMTUNE_HOME")
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(";\n"):
                    connection.execute(statement)
            if version != len(MIGRATIONS):  # a write of its own: a file that is as it should be stays untouched
                connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def read(self) -> sqlite3.Connection:
        """This thread's connection, for queries: each statement sees one state of the whole file."""
        connection = self._local.connection
        if connection is None:
            with writing(self.path):  # a reader writes too: it tells the log what it reads
                connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
                connection.row_factory = sqlite3.Row
                _write_ahead(connection)
            self._local.connection = connection
        return connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction. BEGIN IMMEDIATE takes the write lock first, so that what is read in it stays true.

        durable: whether the disk has it when this returns. What is not may be lost with the machine's power, though
        never with a process, and never alone: what was committed after it is lost too. Raises CannotStore when the disk
        is full or may not be written to.
        """
        connection = self.read()
        with writing(self.path):
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk ends it by itself
                    connection.execute("ROLLBACK")
                raise
        with self._committed:
            self._commits += 1
            self._committed.notify_all()

    def version(self) -> tuple[int, int]:
        """Return what changes with every commit to the file, whoever made it. Good for this thread."""
        return self._commits, self.read().execute("PRAGMA data_version").fetchone()[0]

    def wait_for_newer(self, version: tuple[int, int], seconds: float) -> None:
        """Return when there is another version than this one, or after so many seconds."""
        give_up = time.monotonic() + seconds
        while (remaining := give_up - time.monotonic()) > 0 and self.version() == version:
            with self._committed:
                if self._commits == version[0]:
                    self._committed.wait(min(LOOK_SECONDS, remaining))

    def close(self) -> None:
        """Close this thread's connection."""
        if self._local.connection is not None:
            self._local.connection.close()
            self._local.connection = None


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Use a write-ahead log. When several processes open a new file at once, one of them brings it that log, and SQLite
    lets the others fail instead of wait."""
    give_up = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up:
                raise
            time.sleep(0.01)
