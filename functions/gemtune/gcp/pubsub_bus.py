"""Bus on Pub/Sub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from google.api_core.exceptions import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    InternalServerError,
    ResourceExhausted,
    ServiceUnavailable,
    Unknown,
)
from google.api_core.retry import Retry, if_exception_type

from gemtune.ports import ReceivedMessage, Topic

if TYPE_CHECKING:
    from google.cloud import pubsub_v1  # type: ignore[attr-defined]

# Seconds until a publish has to be durable, and of one attempt at it; and that a pull waits when nothing is there.
PUBLISH_SECONDS, ATTEMPT_SECONDS, PULL_SECONDS = 30.0, 10.0, 3.0
# Seconds until a pulled message that nobody acknowledged comes again, and that an unread one is kept.
ACK_DEADLINE, RETENTION = 10, 7 * 86400
# What a publish is tried again after, as the client does by itself: https://cloud.google.com/pubsub/docs/retry-requests
PASSING = (Aborted, Cancelled, DeadlineExceeded, InternalServerError, ResourceExhausted, ServiceUnavailable, Unknown)


class PubSubBus:
    def __init__(self, project_id: str):
        self._project_id = project_id

    @cached_property
    def _publisher(self) -> pubsub_v1.PublisherClient:
        from google.cloud import pubsub_v1  # type: ignore[attr-defined]

        return pubsub_v1.PublisherClient()

    @cached_property
    def _subscriber(self) -> pubsub_v1.SubscriberClient:
        from google.cloud import pubsub_v1  # type: ignore[attr-defined]

        return pubsub_v1.SubscriberClient()

    def publish(
        self, topic: Topic, message: bytes, *, attributes: Mapping[str, str] | None = None, ordering_key: str = "",
        durable: bool = True,
    ) -> str:  # fmt: skip
        # The API's own call, not the client's queue in front of it: that goes on trying an ordered message in the
        # background after we gave it up, and so could publish it after later ones.
        from google.pubsub_v1 import PublisherClient

        wanted = {"data": message, "attributes": dict(attributes or {}), "ordering_key": ordering_key}
        answer = PublisherClient.publish(
            self._publisher,
            request={"topic": self._topic(topic), "messages": [wanted]},
            retry=Retry(if_exception_type(*PASSING), initial=0.1, timeout=PUBLISH_SECONDS),
            timeout=ATTEMPT_SECONDS,
        )
        return str(answer.message_ids[0])

    def subscribe(self, name: str, topic: Topic) -> None:
        path = self._subscription(name)
        wanted = {
            "name": path,
            "topic": self._topic(topic),
            "enable_message_ordering": True,
            "ack_deadline_seconds": ACK_DEADLINE,
            "message_retention_duration": {"seconds": RETENTION},
            "expiration_policy": {},  # never: it keeps what comes while nobody reads
        }
        try:
            self._subscriber.create_subscription(request=wanted)
        except AlreadyExists:
            there = self._subscriber.get_subscription(subscription=path).topic
            if there != wanted["topic"]:
                raise ValueError(f"subscription {name!r} is of topic {there.rpartition('/')[2]}") from None

    def pull(self, name: str, limit: int, *, wait_seconds: float = 0.0) -> list[ReceivedMessage]:
        seconds = max(wait_seconds, PULL_SECONDS)
        try:
            answer = self._subscriber.pull(
                subscription=self._subscription(name), max_messages=limit, timeout=seconds, retry=None
            )
        except DeadlineExceeded:
            return []
        return [
            ReceivedMessage(
                ack_id=received.ack_id,
                message_id=received.message.message_id,
                message=received.message.data,
                attributes=dict(received.message.attributes),
                ordering_key=received.message.ordering_key,
            )
            for received in answer.received_messages
        ]

    def ack(self, name: str, ack_ids: Sequence[str]) -> None:
        if ack_ids:
            self._subscriber.acknowledge(subscription=self._subscription(name), ack_ids=list(ack_ids))

    def _topic(self, topic: Topic) -> str:
        return f"projects/{self._project_id}/topics/{topic}"

    def _subscription(self, name: str) -> str:
        return f"projects/{self._project_id}/subscriptions/{name}"
