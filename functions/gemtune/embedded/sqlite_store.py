"""Job store on SQLite.

Each new event is also queued for `fan_out`, in place of the Firestore trigger that runs it on Google Cloud.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from gemtune.embedded.database import Database
from gemtune.embedded.sqlite_bus import enqueue
from gemtune.errors import JobNotFound, JobWasDeleted, RecordUnreadable, VersionConflict
from gemtune.jobs import changes, steps, stored
from gemtune.jobs.events import Event
from gemtune.jobs.page_tokens import PagePosition, decode_page_token, encode_page_token
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.record import FencingToken, Job, JobSummary
from gemtune.jobs.salvage import salvage_job
from gemtune.jobs.status import UNFINISHED, Status
from gemtune.ports import Change, Clock, CreateResult, Page, Tombstone

log = logging.getLogger(__name__)

# SQL for the fields of a record that lists show, as a JSON array; NULL if the record is not valid JSON.
_PATHS = ", ".join(f"'$.{name}'" for name in stored.SHOWN_IN_LISTS)
SHOWN = f"CASE WHEN json_valid(record) THEN json_extract(record, {_PATHS}) END"

# Columns of the table `jobs` that no change of a job changes.
UNCHANGING = frozenset({"job_id", "created_at", "modality"})


class SqliteStore:
    """`ports.JobStore` on SQLite."""

    def __init__(self, database: Database, *, clock: Clock):
        self._database = database
        self._clock = clock

    def create(self, job: Job, event: Event) -> CreateResult:
        """Store a new job, or return the one with its key or id."""
        with self._database.write() as connection:
            existing = self._find_same(connection, job)
            if existing is not None:
                return CreateResult(existing, is_new=False)
            if job.parent_job_id is not None:
                parent = self._get(connection, job.parent_job_id)
                self._save(connection, parent.model_copy(update={"version": parent.version + 1}))
            self._insert(connection, job)
            self._write_events(connection, [event])
            if job.key_hash is not None:
                connection.execute("INSERT INTO idempotency_keys VALUES (?, ?)", (job.key_hash, job.job_id))
        return CreateResult(job, is_new=True)

    def find_by_key(self, key_hash: str) -> Job | None:
        """Return the job with this idempotency key, or None."""
        connection = self._database.read()
        job_id = _job_with_key(connection, key_hash)
        return None if job_id is None else self._find(connection, job_id)

    def _find_same(self, connection: sqlite3.Connection, job: Job) -> Job | None:
        """Return the stored job with this job's key or id, or None.

        Raises JobWasDeleted.
        """
        by_key = None if job.key_hash is None else _job_with_key(connection, job.key_hash)
        return self._find(connection, by_key or job.job_id)

    def _find(self, connection: sqlite3.Connection, job_id: str) -> Job | None:
        """Return a job, or None if it never existed. Raises JobWasDeleted."""
        if connection.execute("SELECT 1 FROM tombstones WHERE job_id = ?", (job_id,)).fetchone():
            raise JobWasDeleted(job_id)
        row = connection.execute("SELECT job_id, record FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else _read(row)

    def get(self, job_id: str) -> Job:
        """Return a job. Raises JobNotFound, RecordUnreadable."""
        return self._get(self._database.read(), job_id)

    def salvage(self, job_id: str) -> Job:
        """Return a job even if its record is partly unreadable."""
        return self._salvage(self._database.read(), job_id)

    def update(
        self,
        job_id: str,
        change: Change,
        *,
        version: int | None = None,
        salvage: bool = False,
        durable: bool = True,
    ) -> Job:
        """Apply `change` to a job and store the result with its events."""
        with self._database.write(durable=durable) as connection:
            before = self._salvage(connection, job_id) if salvage else self._get(connection, job_id)
            if version is not None and before.version != version:
                raise VersionConflict(f"job {job_id!r} is at version {before.version}, not {version}")
            after, events = change(before)
            if after is before:
                return before
            after = changes.with_next_version(after, before, at=self._clock.now())
            self._save(connection, after)
            self._write_events(connection, events)
        return after

    def record_progress(self, job_id: str, fence: FencingToken, progress: Progress | None, at: datetime) -> Job:
        """Store a heartbeat and the progress of the running attempt."""
        with self._database.write(durable=False) as connection:  # the next heartbeat makes up for a lost one
            job = steps.record_heartbeat(self._get(connection, job_id), fence, progress, at)
            self._save(connection, job)
        return job

    def mark_published(self, job_id: str, seq: int) -> None:
        """Raise the number of the last published event to `seq`."""
        with self._database.write(durable=False) as connection:  # if it is lost, the events are published again
            job = self._get(connection, job_id)
            if seq > job.published_seq:
                self._save(connection, job.model_copy(update={"published_seq": seq}))

    def page(self, *, status: Status | None, modality: str | None, limit: int, page_token: str | None) -> Page:
        """Return one page of jobs, newest first, ordered by time and id."""
        values: dict[str, Any] = {"status": status and status.value, "modality": modality}
        conditions = [f"{column} = :{column}" for column, value in values.items() if value is not None]
        if page_token is not None:
            place = decode_page_token(page_token)
            values |= {"created_at": _iso(place.created_at), "job_id": place.job_id}
            conditions.append("(created_at, job_id) < (:created_at, :job_id)")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "ORDER BY created_at DESC, job_id DESC LIMIT :limit"
        query = f"SELECT job_id, created_at, modality, {SHOWN} AS shown FROM jobs {where} {order}"
        rows = self._database.read().execute(query, values | {"limit": limit + 1}).fetchall()
        more = len(rows) > limit
        return Page([_summary(row) for row in rows[:limit]], _token(rows[limit - 1]) if more else None)

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> Sequence[Event]:
        """Return up to `limit` events after the number `after`."""
        connection = self._database.read()
        job = connection.execute("SELECT created_at FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        if job is None:
            raise JobNotFound(job_id)
        created_at = datetime.fromisoformat(job["created_at"])
        query = "SELECT seq, body FROM events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        rows = connection.execute(query, (job_id, after, limit)).fetchall()
        return [stored.read_event(job_id, row["seq"], row["body"], created_at=created_at) for row in rows]

    def unfinished(self, *, after: PagePosition | None = None) -> Iterator[Job]:
        """Yield unfinished jobs, oldest first; skip unreadable ones."""
        marks = ", ".join("?" * len(UNFINISHED))
        start = ("", "") if after is None else (_iso(after.created_at), after.job_id)
        query = f"SELECT job_id, record FROM jobs WHERE status IN ({marks}) AND (created_at, job_id) > (?, ?)"
        ordered = f"{query} ORDER BY created_at, job_id"
        for row in self._database.read().execute(ordered, (*sorted(UNFINISHED), *start)).fetchall():
            try:
                yield _read(row)
            except RecordUnreadable as error:
                log.warning("%s", error)

    def children_in_need(self, job_id: str) -> Sequence[Job]:
        """Return a job's children that need it, by id."""
        # Jobs are rarely deleted, so an index on the parent is not worth it.
        parent = "CASE WHEN json_valid(record) THEN json_extract(record, '$.parent_job_id') END"
        query = f"SELECT job_id FROM jobs WHERE {parent} = ? ORDER BY job_id"
        rows = self._database.read().execute(query, (job_id,)).fetchall()
        return [child for child in (self.salvage(row["job_id"]) for row in rows) if child.needs_parent]

    def unpublished(self) -> Iterator[str]:
        """Yield the ids of jobs with unpublished events."""
        query = "SELECT job_id FROM jobs WHERE published_seq < last_seq"
        yield from (row["job_id"] for row in self._database.read().execute(query).fetchall())

    def delete(self, job_id: str, *, version: int, tombstone_until: datetime) -> None:
        """Delete all rows of a job and leave a tombstone."""
        with self._database.write() as connection:
            job = self._salvage(connection, job_id)
            if job.version != version:
                raise VersionConflict(f"job {job_id!r} is at version {job.version}, not {version}")
            for table in ("events", "jobs", "executions", "step_executions"):
                connection.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))
            connection.execute("INSERT INTO tombstones VALUES (?, ?)", (job_id, _iso(tombstone_until)))

    def was_deleted(self, job_id: str) -> bool:
        """Return whether there is a tombstone with this id."""
        query = "SELECT 1 FROM tombstones WHERE job_id = ?"
        return self._database.read().execute(query, (job_id,)).fetchone() is not None

    def tombstones(self, *, until_after: datetime, after: Tombstone | None = None) -> Iterator[Tombstone]:
        """Yield the tombstones that expire after this time, in that order."""
        values: tuple[str, ...] = (_iso(until_after),)
        query = "SELECT job_id, until FROM tombstones WHERE until > ?"
        if after is not None:
            query, values = f"{query} AND (until, job_id) > (?, ?)", (*values, _iso(after.until), after.job_id)
        for row in self._database.read().execute(f"{query} ORDER BY until, job_id", values).fetchall():
            with suppress(ValueError):  # a damaged one is left out, as it has no place in the order
                yield Tombstone(datetime.fromisoformat(row["until"]), row["job_id"])

    def drop_tombstones(self, now: datetime, *, limit: int) -> int:
        """Delete some expired tombstones, with the keys that they reserve."""
        with self._database.write() as connection:
            # The oldest come first in the table, so that no more than the limit has to be read.
            expired = "SELECT job_id FROM tombstones WHERE until <= ? ORDER BY rowid LIMIT ?"
            # A launch may have started while the job was deleted. The tombstones themselves come last.
            for table in ("idempotency_keys", "executions", "tombstones"):
                query = f"DELETE FROM {table} WHERE job_id IN ({expired})"
                deleted = connection.execute(query, (_iso(now), limit)).rowcount
        return deleted

    def _get(self, connection: sqlite3.Connection, job_id: str) -> Job:
        """Return a job inside the caller's transaction. Raises JobNotFound."""
        return _read(_row(connection, job_id))

    def _salvage(self, connection: sqlite3.Connection, job_id: str) -> Job:
        """Return a job even if its record is unreadable.

        The row's other columns and the readable fields then make up the job.
        """
        row = _row(connection, job_id)
        try:
            return _read(row)
        except RecordUnreadable:
            newest = connection.execute("SELECT max(seq) FROM events WHERE job_id = ?", (job_id,)).fetchone()[0]
            facts = {name: row[name] for name in row.keys() if name != "record"}  # noqa: SIM118 - a Row is no mapping
            return salvage_job(row["record"], facts | {"last_seq": max(row["last_seq"], newest or 0)})

    def _insert(self, connection: sqlite3.Connection, job: Job) -> None:
        """Insert the row of a new job."""
        columns = _columns(job)
        marks = ", ".join(f":{name}" for name in columns)
        connection.execute(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({marks})", columns)

    def _save(self, connection: sqlite3.Connection, job: Job) -> None:
        """Update the row of a stored job."""
        columns = _columns(job)
        # The others never change. To name them would update their indexes nevertheless.
        values = ", ".join(f"{name} = :{name}" for name in columns if name not in UNCHANGING)
        connection.execute(f"UPDATE jobs SET {values} WHERE job_id = :job_id", columns)

    def _write_events(self, connection: sqlite3.Connection, events: Sequence[Event]) -> None:
        """Store events and queue the trigger of each for `fan_out`."""
        for event in events:
            body = event.model_dump_json()
            connection.execute("INSERT INTO events VALUES (?, ?, ?)", (event.job_id, event.seq, body))
            document = f"training_jobs/{event.job_id}/events/{event.seq}"
            enqueue(connection, "trigger:documents", body.encode(), {"document": document}, now=self._clock.now())


def _row(connection: sqlite3.Connection, job_id: str) -> sqlite3.Row:
    """Return a job's row. Raises JobNotFound."""
    row: sqlite3.Row | None = connection.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    if row is None:
        raise JobNotFound(job_id)
    return row


def _job_with_key(connection: sqlite3.Connection, key_hash: str) -> str | None:
    """Return the id of the job with an idempotency key, or None."""
    row = connection.execute("SELECT job_id FROM idempotency_keys WHERE key = ?", (key_hash,)).fetchone()
    return None if row is None else str(row["job_id"])


def _columns(job: Job) -> dict[str, Any]:
    """Return a job's row in the table `jobs`, by column. Raises RecordInvalid."""
    record = stored.to_json(job)
    fields = {name: getattr(job, name) for name in ("job_id", "modality", "version", "last_seq", "published_seq")}
    return fields | {"created_at": _iso(job.created_at), "status": str(job.status), "record": record}


def _read(row: sqlite3.Row) -> Job:
    """Return the job in a row. Raises RecordUnreadable."""
    return stored.read(row["job_id"], row["record"])


def _summary(row: sqlite3.Row) -> JobSummary:
    """Return a row of the table `jobs` as lists show it."""
    created_at = datetime.fromisoformat(row["created_at"])
    values = [None] * len(stored.SHOWN_IN_LISTS) if row["shown"] is None else json.loads(row["shown"])
    shown = dict(zip(stored.SHOWN_IN_LISTS, values, strict=True))
    return stored.summary(row["job_id"], shown, modality=row["modality"], created_at=created_at)


def _iso(at: datetime) -> str:
    """Format a time with microseconds, so that texts sort by time."""
    return at.isoformat(timespec="microseconds")


def _token(row: sqlite3.Row) -> str:
    """Return the token of the page that begins after a job's row."""
    return encode_page_token(PagePosition(datetime.fromisoformat(row["created_at"]), row["job_id"]))
