"""Message bus on SQLite: at-least-once delivery by push or pull.

Messages that fail too often become dead letters. Push deliveries are made by local_server/delivery.py.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gemtune.embedded.database import Database
from gemtune.ports import Clock, ReceivedMessage, Topic

# Seconds until a leased message is redelivered: one that is pushed, and one that was pulled (Pub/Sub's default).
PUSH_DEADLINE, ACK_DEADLINE = 120.0, 10.0
# Seconds by which a correction may set the clock back without making messages due early.
CLOCK_SECONDS = 1.0
# Seconds after which an undelivered message is deleted: Pub/Sub's default.
RETENTION = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retry policy of a subscription: attempts, and delays in seconds.

    The delay doubles after each attempt, from `min_backoff` to `max_backoff`, as in Pub/Sub. After the last attempt the
    message becomes a dead letter.
    """

    attempts: int
    min_backoff: float
    max_backoff: float


# Our functions are retried for 15 minutes, receivers of webhooks, which may be down for long, for about seven hours.
RETRY = RetryPolicy(attempts=20, min_backoff=0.5, max_backoff=60.0)
RETRIES: Mapping[str, RetryPolicy] = {"notify": RetryPolicy(attempts=50, min_backoff=5.0, max_backoff=600.0)}


@dataclass(frozen=True, slots=True)
class LeasedMessage(ReceivedMessage):
    """A message that is leased for delivery.

    `attempt` counts from 1.
    """

    published_at: float
    attempt: int
    subscription: str
    topic: str


def enqueue(
    connection: sqlite3.Connection,
    topic: str,
    message: bytes,
    attributes: Mapping[str, str],
    *,
    now: datetime,
    ordering_key: str = "",
) -> str:
    """Queue a message for every subscription of a topic and return its id.

    Runs inside the caller's transaction on `connection`.
    """
    at = now.timestamp()
    row = (topic, ordering_key, json.dumps(dict(attributes)), message, at)
    insert = "INSERT INTO messages (topic, ordering_key, attributes, body, published_at) VALUES (?, ?, ?, ?, ?)"
    message_id = connection.execute(insert, row).lastrowid
    connection.execute(
        "INSERT INTO deliveries (subscription, message, ordering_key, due_at, set_at) "
        "SELECT name, ?, ?, ?, ? FROM subscriptions WHERE topic = ?",
        (message_id, ordering_key, at, at, topic),
    )
    _delete_if_delivered(connection, message_id)  # if the topic has no subscription
    return str(message_id)


class SqliteBus:
    """`ports.Bus` on SQLite, with leases for the process that pushes messages."""

    def __init__(self, database: Database, *, clock: Clock):
        self._database = database
        self._clock = clock

    def publish(
        self,
        topic: Topic,
        message: bytes,
        *,
        attributes: Mapping[str, str] | None = None,
        ordering_key: str = "",
        durable: bool = True,
    ) -> str:
        """Queue a message in its own transaction and return its id."""
        with self._database.write(durable=durable) as connection:
            now = self._clock.now()
            return enqueue(connection, topic, message, attributes or {}, now=now, ordering_key=ordering_key)

    def subscribe(self, name: str, topic: Topic) -> None:
        """Create a pull subscription unless it exists.

        Raises ValueError if the name belongs to another topic's subscription.
        """
        with self._database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO subscriptions VALUES (?, ?, NULL)", (name, topic))
            query = "SELECT topic FROM subscriptions WHERE name = ?"
            stored_topic = connection.execute(query, (name,)).fetchone()["topic"]
        if stored_topic != topic:
            raise ValueError(f"subscription {name!r} belongs to topic {stored_topic}")

    def pull(self, name: str, limit: int, *, wait_seconds: float = 0.0) -> list[ReceivedMessage]:
        """Lease due messages; wait up to `wait_seconds` if there are none."""
        end = time.monotonic() + wait_seconds
        while True:
            version = self.version()
            messages = self.lease([name], limit, deadline=ACK_DEADLINE)
            remaining = end - time.monotonic()
            if messages or remaining <= 0:
                return list(messages)
            self.wait_for_newer(version, remaining)

    def version(self) -> tuple[int, int]:
        """Return a value that changes when there may be new messages to lease."""
        return self._database.version()

    def wait_for_newer(self, version: tuple[int, int], seconds: float) -> None:
        """Wait at most `seconds` until `version()` differs from `version`."""
        self._database.wait_for_newer(version, seconds)

    def ack(self, name: str, ack_ids: Sequence[str]) -> None:
        """Delete the deliveries of acknowledged messages."""
        with self._database.write(durable=False) as connection:  # a lost acknowledgment only means a redelivery
            for ack_id in ack_ids:
                connection.execute("DELETE FROM deliveries WHERE subscription = ? AND message = ?", (name, int(ack_id)))
                _delete_if_delivered(connection, int(ack_id))

    def lease(self, names: Sequence[str], limit: int, *, deadline: float = PUSH_DEADLINE) -> list[LeasedMessage]:
        """Lease up to `limit` due messages for `deadline` seconds.

        `names` are subscriptions. A message with an ordering key is due only if its subscription has no older message
        with that key. All waiting messages are due if the clock was set back since they were scheduled.
        """
        now = self._clock.now().timestamp()
        marks = ", ".join("?" * len(names))
        due = f"""
            SELECT d.subscription, d.attempts, m.* FROM deliveries d JOIN messages m ON m.id = d.message
            WHERE d.subscription IN ({marks}) AND (d.due_at <= ? OR d.set_at > ?)
            AND (d.ordering_key = '' OR NOT EXISTS (
              SELECT 1 FROM deliveries older WHERE older.subscription = d.subscription
              AND older.ordering_key = d.ordering_key AND older.message < d.message))
            ORDER BY d.message LIMIT ?"""
        times = (now, now + CLOCK_SECONDS)
        if self._database.read().execute(due, (*names, *times, 1)).fetchone() is None:
            return []  # the common case; a query needs no write lock
        with self._database.write(durable=False) as connection:  # a lost lease only means an early redelivery
            rows = connection.execute(due, (*names, *times, limit)).fetchall()
            update = "UPDATE deliveries SET attempts = attempts + 1, due_at = ?, set_at = ?"
            for row in rows:
                values = (now + deadline, now, row["subscription"], row["id"])
                connection.execute(f"{update} WHERE subscription = ? AND message = ?", values)
        return [_leased_message(row) for row in rows]

    def reject(self, message: LeasedMessage, error: str) -> None:
        """Schedule the next attempt of a failed delivery.

        After the last attempt of the subscription's retry policy, the message becomes a dead letter with this error.
        """
        now, policy = self._clock.now().timestamp(), RETRIES.get(message.subscription, RETRY)
        key = (message.subscription, int(message.message_id))
        with self._database.write() as connection:
            if message.attempt < policy.attempts:
                delay = min(policy.max_backoff, policy.min_backoff * 2 ** (message.attempt - 1))
                reschedule = "UPDATE deliveries SET due_at = ?, set_at = ? WHERE subscription = ? AND message = ?"
                connection.execute(reschedule, (now + delay, now, *key))
                return
            connection.execute(
                "INSERT INTO dead_letters SELECT ?, id, topic, ordering_key, attributes, body, ?, ?, ? "
                "FROM messages WHERE id = ?",
                (message.subscription, message.attempt, error, now, key[1]),
            )
            connection.execute("DELETE FROM deliveries WHERE subscription = ? AND message = ?", key)
            _delete_if_delivered(connection, key[1])

    def push_subscriptions(self) -> list[str]:
        """Return the names of all push subscriptions."""
        query = "SELECT name FROM subscriptions WHERE path IS NOT NULL"
        return [row["name"] for row in self._database.read().execute(query)]

    def release_leases(self) -> None:
        """Make every push delivery due now, leased or not.

        Called when a server starts: it is the only process that pushes, so older leases belong to a dead one.
        """
        with self._database.write() as connection:
            pushed = "SELECT name FROM subscriptions WHERE path IS NOT NULL"
            now = self._clock.now().timestamp()
            release = f"UPDATE deliveries SET due_at = ?, set_at = ? WHERE subscription IN ({pushed})"
            connection.execute(release, (now, now))

    def delete_expired(self) -> None:
        """Delete messages and dead letters that are older than RETENTION."""
        oldest = self._clock.now().timestamp() - RETENTION
        with self._database.write() as connection:
            old = "SELECT id FROM messages WHERE published_at < ?"
            connection.execute(f"DELETE FROM deliveries WHERE message IN ({old})", (oldest,))
            connection.execute("DELETE FROM messages WHERE published_at < ?", (oldest,))
            connection.execute("DELETE FROM dead_letters WHERE at < ?", (oldest,))


def _delete_if_delivered(connection: sqlite3.Connection, message_id: int | None) -> None:
    """Delete a message that no subscription waits for any more."""
    delete = "DELETE FROM messages WHERE id = ? AND NOT EXISTS (SELECT 1 FROM deliveries WHERE message = messages.id)"
    connection.execute(delete, (message_id,))


def _leased_message(row: sqlite3.Row) -> LeasedMessage:
    """Return the message in a row of the query in `lease`."""
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
    )
