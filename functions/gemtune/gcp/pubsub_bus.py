"""Message bus on Pub/Sub."""

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

# Time limits in seconds: for publishing with all retries, for one attempt at it, and for a pull without messages.
PUBLISH_SECONDS, ATTEMPT_SECONDS, PULL_SECONDS = 30.0, 10.0, 3.0
# Seconds until an unacknowledged message is redelivered, and until an unread one is deleted.
ACK_DEADLINE, RETENTION = 10, 7 * 86400
# Errors after which publishing is retried, the client's own list: https://cloud.google.com/pubsub/docs/retry-requests
TRANSIENT = (Aborted, Cancelled, DeadlineExceeded, InternalServerError, ResourceExhausted, ServiceUnavailable, Unknown)


class PubSubBus:
    """`ports.Bus` on Pub/Sub."""

    def __init__(self, project_id: str, region: str):
        self._project_id = project_id
        # Pub/Sub keeps the order of an ordering key only for messages that are published in one region. The global
        # endpoint may choose another one for each publisher. https://cloud.google.com/pubsub/docs/ordering
        self._endpoint = f"{region}-pubsub.googleapis.com:443"

    @cached_property
    def _publisher(self) -> pubsub_v1.PublisherClient:
        from google.cloud import pubsub_v1  # type: ignore[attr-defined]

        return pubsub_v1.PublisherClient(client_options={"api_endpoint": self._endpoint})

    @cached_property
    def _subscriber(self) -> pubsub_v1.SubscriberClient:
        from google.cloud import pubsub_v1  # type: ignore[attr-defined]

        return pubsub_v1.SubscriberClient()

    def publish(
        self,
        topic: Topic,
        message: bytes,
        *,
        attributes: Mapping[str, str] | None = None,
        ordering_key: str = "",
        durable: bool = True,
    ) -> str:
        """Publish a message and return its id; Pub/Sub is always durable."""
        # This calls the API directly instead of the client's publish queue. The queue keeps retrying an ordered message
        # in the background after we have given up, and could then publish it after later ones.
        from google.pubsub_v1 import PublisherClient

        pubsub_message = {"data": message, "attributes": dict(attributes or {}), "ordering_key": ordering_key}
        response = PublisherClient.publish(
            self._publisher,
            request={"topic": self._topic(topic), "messages": [pubsub_message]},
            retry=Retry(if_exception_type(*TRANSIENT), initial=0.1, timeout=PUBLISH_SECONDS),
            timeout=ATTEMPT_SECONDS,
        )
        return str(response.message_ids[0])

    def subscribe(self, name: str, topic: Topic) -> None:
        """Create a pull subscription unless it exists.

        Raises ValueError if the name belongs to another topic's subscription.
        """
        path = self._subscription(name)
        request = {
            "name": path,
            "topic": self._topic(topic),
            "enable_message_ordering": True,
            "ack_deadline_seconds": ACK_DEADLINE,
            "message_retention_duration": {"seconds": RETENTION},
            "expiration_policy": {},  # never expires, so that it collects messages while no client pulls
        }
        try:
            self._subscriber.create_subscription(request=request)
        except AlreadyExists:
            topic_path = self._subscriber.get_subscription(subscription=path).topic
            if topic_path != request["topic"]:
                raise ValueError(f"subscription {name!r} belongs to topic {topic_path.rpartition('/')[2]}") from None

    def pull(self, name: str, limit: int, *, wait_seconds: float = 0.0) -> list[ReceivedMessage]:
        """Return up to `limit` messages; wait at least PULL_SECONDS for one."""
        seconds = max(wait_seconds, PULL_SECONDS)
        try:
            response = self._subscriber.pull(
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
            for received in response.received_messages
        ]

    def ack(self, name: str, ack_ids: Sequence[str]) -> None:
        """Acknowledge pulled messages so that they are not redelivered."""
        if ack_ids:
            self._subscriber.acknowledge(subscription=self._subscription(name), ack_ids=list(ack_ids))

    def _topic(self, topic: Topic) -> str:
        return f"projects/{self._project_id}/topics/{topic}"

    def _subscription(self, name: str) -> str:
        return f"projects/{self._project_id}/subscriptions/{name}"
