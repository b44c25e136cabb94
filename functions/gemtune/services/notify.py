"""Delivers webhooks: one event, one POST. Fan-out enqueues them; the platform repeats what fails, for hours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gemtune.errors import AddressNotAllowed, WebhookRefused
from gemtune.jobs.events import Event
from gemtune.ports import Clock, Secrets
from gemtune.webhooks import destinations, signing

Post = Callable[[str, bytes, Mapping[str, str]], int]


def webhook_message(url: str, event: Event) -> bytes:
    """A message of topic webhooks: all that the delivery needs, so that it does not depend on the record."""
    return json.dumps({"url": url, "event": event.model_dump(mode="json")}).encode()


@dataclass(frozen=True, slots=True)
class Notify:
    secrets: Secrets
    clock: Clock
    post: Post
    to_loopback: bool

    def __call__(self, message: bytes) -> None:
        """Raises what makes the platform deliver the message again, and at last keep it as a dead letter:
        AddressNotAllowed, WebhookRefused, and errors of the network."""
        wanted = json.loads(message)
        url, event = str(wanted["url"]), Event.model_validate(wanted["event"])
        if destinations.problem_of(url, to_loopback=self.to_loopback) is not None:
            raise AddressNotAllowed("the webhook's host")
        body = event.model_dump_json().encode()
        # The same in every repetition, so that a receiver can tell one.
        event_id = f"{event.job_id}_{event.seq}"
        headers = signing.signed_headers(
            signing.service_key(self.secrets), event_id=event_id, at=self.clock.now(), body=body
        )
        status = self.post(url, body, headers)
        if not 200 <= status < 300:
            raise WebhookRefused(status)
