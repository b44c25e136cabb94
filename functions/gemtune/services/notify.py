"""Delivery of webhooks: one POST per event.

Fan-out enqueues them, and the platform repeats those that fail, for hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gemtune.errors import AddressNotAllowed, WebhookRefused
from gemtune.jobs.events import Event
from gemtune.ports import Clock, Secrets
from gemtune.webhooks import destinations, signing

# url, body, headers -> HTTP status
Post = Callable[[str, bytes, Mapping[str, str]], int]


def webhook_message(url: str, event: Event) -> bytes:
    """Return a message of the topic webhooks.

    It holds everything that the delivery needs, so that it does not depend on the job's record.
    """
    return json.dumps({"url": url, "event": event.model_dump(mode="json")}).encode()


@dataclass(frozen=True, slots=True)
class Notify:
    """Service that delivers webhooks.

    to_loopback: whether a webhook may go to this machine.
    """

    secrets: Secrets
    clock: Clock
    post: Post
    to_loopback: bool

    def __call__(self, message: bytes) -> None:
        """Deliver the webhook that a message describes.

        Raises AddressNotAllowed, WebhookRefused, and errors of the network. Then the platform delivers the message
        again, and finally moves it to the dead letters.
        """
        fields = json.loads(message)
        url, event = str(fields["url"]), Event.model_validate(fields["event"])
        if destinations.problem_of(url, to_loopback=self.to_loopback) is not None:
            raise AddressNotAllowed("the webhook's host")
        body = event.model_dump_json().encode()
        # The same in every repetition, so that a receiver can recognize one.
        event_id = f"{event.job_id}_{event.seq}"
        headers = signing.signed_headers(
            signing.service_key(self.secrets), event_id=event_id, at=self.clock.now(), body=body
        )
        status = self.post(url, body, headers)
        if not 200 <= status < 300:
            raise WebhookRefused(status)
