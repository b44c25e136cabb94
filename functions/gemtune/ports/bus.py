"""Message bus with topics and pull subscriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Topic(StrEnum):
    """Names of the Pub/Sub topics."""

    JOB_REQUESTS = "job-requests"
    JOB_STATUS = "job-status"
    WEBHOOKS = "webhooks"


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One pulled message.

    It is redelivered unless `ack_id` is acknowledged in time.
    """

    ack_id: str
    message_id: str
    message: bytes
    attributes: Mapping[str, str]
    ordering_key: str


class Bus(Protocol):
    """Message bus with at-least-once delivery."""

    def publish(
        self,
        topic: Topic,
        message: bytes,
        *,
        attributes: Mapping[str, str] | None = None,
        ordering_key: str = "",
        durable: bool = True,
    ) -> str:
        """Publish a message and return its id.

        With `durable`, the message is on disk on return. Without it, a power failure can lose the message, together
        with everything recorded later; that is for messages which are published again when they are lost.
        """
        ...

    def subscribe(self, name: str, topic: Topic) -> None:
        """Create a durable pull subscription unless it exists.

        It receives all messages published from now on. Raises ValueError if the name belongs to a subscription of
        another topic.
        """
        ...

    def pull(self, name: str, limit: int, *, wait_seconds: float = 0.0) -> list[ReceivedMessage]:
        """Return up to `limit` due messages, in order per ordering key.

        If none is due, wait for one; return an empty list after `wait_seconds` or a little later.
        """
        ...

    def ack(self, name: str, ack_ids: Sequence[str]) -> None:
        """Acknowledge pulled messages so that they are not redelivered."""
        ...
