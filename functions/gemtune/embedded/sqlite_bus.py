"""Bus on SQLite: durable messages, delivered at least once, by push (see delivery.py) or pull, with dead letters."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gemtune.embedded.database import Database
from gemtune.ports import Clock, ReceivedMessage, Topic

# Seconds that a delivery under way belongs to its receiver, and those that a pulled message does (Pub/Sub's default).
PUSH_DEADLINE, ACK_DEADLINE = 120.0, 10.0
# Seconds by which the clock may be corrected without anything being due earlier.
CLOCK_SECONDS = 1.0
# Seconds that an undelivered message is kept: Pub/Sub's default.
RETENTION = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Deliveries of one message before it becomes a dead letter, and the seconds between them: doubled each time, as
    Pub/Sub's retry policy does."""

    attempts: int
    min_backoff: float
    max_backoff: float


# Ours are tried for a quarter of an hour. A webhook's receiver may be away for hours: some seven.
RETRY = RetryPolicy(attempts=20, min_backoff=0.5, max_backoff=60.0)
RETRIES: Mapping[str, RetryPolicy] = {"notify": RetryPolicy(attempts=50, min_backoff=5.0, max_backoff=600.0)}


@dataclass(frozen=True, slots=True)
class LeasedMessage(ReceivedMessage):
    """One message as its deliverer sees it. `attempt` counts from 1; `path` is where it is pushed."""

    published_at: float
    attempt: int
    subscription: str
    topic: str
    path: str | None


def enqueue(
    connection: sqlite3.Connection,
    topic: str,
    message: bytes,
    attributes: Mapping[str, str],
    *,
    now: datetime,
    ordering_key: str = "",
) -> str:
    """Queue a message for every subscription of a topic, inside the caller's transaction; return its id."""
    at = now.timestamp()
    row = (topic, ordering_key, json.dumps(dict(attributes)), message, at)
    insert = "INSERT INTO messages (topic, ordering_key, attributes, body, published_at) VALUES (?, ?, ?, ?, ?)"
    message_id = connection.execute(insert, row).lastrowid
    connection.execute(
        "INSERT INTO deliveries (subscription, message, ordering_key, due_at, set_at) "
        "SELECT name, ?, ?, ?, ? FROM subscriptions WHERE topic = ?",
        (message_id, ordering_key, at, at, topic),
    )
    _forget_delivered(connection, message_id)
    return str(message_id)


class SqliteBus:
    def __init__(self, database: Database, *, clock: Clock):
        self._database = database
        self._clock = clock

    def publish(
        self, topic: Topic, message: bytes, *, attributes: Mapping[str, str] | None = None, ordering_key: str = "",
        durable: bool = True,
    ) -> str:  # fmt: skip
        with self._database.write(durable=durable) as connection:
            now = self._clock.now()
            return enqueue(connection, topic, message, attributes or {}, now=now, ordering_key=ordering_key)

    def subscribe(self, name: str, topic: Topic) -> None:
        with self._database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO subscriptions VALUES (?, ?, NULL)", (name, topic))
            there = connection.execute("SELECT topic FROM subscriptions WHERE name = ?", (name,)).fetchone()["topic"]
        if there != topic:
            raise ValueError(f"subscription {name!r} is of topic {there}")

    def pull(self, name: str, limit: int, *, wait_seconds: float = 0.0) -> list[ReceivedMessage]:
        give_up = time.monotonic() + wait_seconds
        while True:
            version = self.version()
            taken = self.lease([name], limit, deadline=ACK_DEADLINE)
            remaining = give_up - time.monotonic()
            if taken or remaining <= 0:
                return list(taken)
            self.wait_for_newer(version, remaining)

    def version(self) -> tuple[int, int]:
        """Return what changes when there may be something new to take."""
        return self._database.version()

    def wait_for_newer(self, version: tuple[int, int], seconds: float) -> None:
        """Return when there is another version than this one, or after so many seconds."""
        self._database.wait_for_newer(version, seconds)

    def ack(self, name: str, ack_ids: Sequence[str]) -> None:
        with self._database.write(durable=False) as connection:  # what is lost of it comes once more
            for ack_id in ack_ids:
                connection.execute("DELETE FROM deliveries WHERE subscription = ? AND message = ?", (name, int(ack_id)))
                _forget_delivered(connection, int(ack_id))

    def lease(self, names: Sequence[str], limit: int, *, deadline: float = PUSH_DEADLINE) -> list[LeasedMessage]:
        """Take due deliveries of these subscriptions, for some seconds. A message with an ordering key is due only
        when no older one of its key and subscription is left. What waits is due, too, when the clock was set back."""
        now = self._clock.now().timestamp()
        marks = ", ".join("?" * len(names))
        due = f"""
            SELECT d.subscription, d.attempts, m.*, s.path FROM deliveries d
            JOIN messages m ON m.id = d.message JOIN subscriptions s ON s.name = d.subscription
            WHERE d.subscription IN ({marks}) AND (d.due_at <= ? OR d.set_at > ?)
            AND (d.ordering_key = '' OR NOT EXISTS (
              SELECT 1 FROM deliveries older WHERE older.subscription = d.subscription
              AND older.ordering_key = d.ordering_key AND older.message < d.message))
            ORDER BY d.message LIMIT ?"""
        times = (now, now + CLOCK_SECONDS)
        if self._database.read().execute(due, (*names, *times, 1)).fetchone() is None:
            return []  # nothing to do is the common case, and a look needs no write lock
        with self._database.write(durable=False) as connection:  # what is lost of it is due again at once
            rows = connection.execute(due, (*names, *times, limit)).fetchall()
            taken = "UPDATE deliveries SET attempts = attempts + 1, due_at = ?, set_at = ?"
            for row in rows:
                of_row = (now + deadline, now, row["subscription"], row["id"])
                connection.execute(f"{taken} WHERE subscription = ? AND message = ?", of_row)
        return [_taken(row) for row in rows]

    def reject(self, taken: LeasedMessage, error: str) -> None:
        """A delivery failed: try again later, or keep it as a dead letter after the last attempt."""
        now, policy = self._clock.now().timestamp(), RETRIES.get(taken.subscription, RETRY)
        key = (taken.subscription, int(taken.message_id))
        with self._database.write() as connection:
            if taken.attempt < policy.attempts:
                wait = min(policy.max_backoff, policy.min_backoff * 2 ** (taken.attempt - 1))
                later = "UPDATE deliveries SET due_at = ?, set_at = ? WHERE subscription = ? AND message = ?"
                connection.execute(later, (now + wait, now, *key))
                return
            connection.execute(
                "INSERT INTO dead_letters SELECT ?, id, topic, ordering_key, attributes, body, ?, ?, ? "
                "FROM messages WHERE id = ?",
                (taken.subscription, taken.attempt, error, now, key[1]),
            )
            connection.execute("DELETE FROM deliveries WHERE subscription = ? AND message = ?", key)
            _forget_delivered(connection, key[1])

    def push_subscriptions(self) -> list[str]:
        query = "SELECT name FROM subscriptions WHERE path IS NOT NULL"
        return [row["name"] for row in self._database.read().execute(query)]

    def release_leases(self) -> None:
        """Make every push delivery due at once: at its start the server is the only one who delivers."""
        with self._database.write() as connection:
            pushed = "SELECT name FROM subscriptions WHERE path IS NOT NULL"
            now = self._clock.now().timestamp()
            release = f"UPDATE deliveries SET due_at = ?, set_at = ? WHERE subscription IN ({pushed})"
            connection.execute(release, (now, now))

    def delete_expired(self) -> None:
        """Forget messages older than RETENTION, and dead letters of that age."""
        oldest = self._clock.now().timestamp() - RETENTION
        with self._database.write() as connection:
            old = "SELECT id FROM messages WHERE published_at < ?"
            connection.execute(f"DELETE FROM deliveries WHERE message IN ({old})", (oldest,))
            connection.execute("DELETE FROM messages WHERE published_at < ?", (oldest,))
            connection.execute("DELETE FROM dead_letters WHERE at < ?", (oldest,))


def _forget_delivered(connection: sqlite3.Connection, message: int | None) -> None:
    gone = "DELETE FROM messages WHERE id = ? AND NOT EXISTS (SELECT 1 FROM deliveries WHERE message = messages.id)"
    connection.execute(gone, (message,))


def _taken(row: sqlite3.Row) -> LeasedMessage:
    return LeasedMessage(
        ack_id=str(row["id"]),
        message_id=str(row["id"]),
        message=row["body"],
        attributes=json.loads(row["attributes"]),
        ordering_key=row["ordering_key"],
        published_at=row["published_at"],
        attempt=row["attempts"] + 1,
        subscription=row["subscription"],
        topic=row["topic"],
        path=row["path"],
    )
