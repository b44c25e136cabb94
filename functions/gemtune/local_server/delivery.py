"""Delivers messages and triggers over HTTP, in the shapes that Pub/Sub and Eventarc give them."""

from __future__ import annotations

import base64
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx2

from gemtune.embedded.sqlite_bus import SqliteBus, Taken
from gemtune.local_server.firestore_document import document_event

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
FAILURE_SECONDS = 1.0
WORKERS = 8
# An event function has as long as a delivery is leased for.
TIMEOUT_SECONDS = 110.0


class Delivery:
    """Pushes what is due; an answer of 2xx acknowledges, anything else asks for the message again."""

    def __init__(self, bus: SqliteBus, *, base_url: str, token: str):
        self._bus = bus
        self._base_url = base_url
        self._token = token
        self._client = httpx2.Client(timeout=TIMEOUT_SECONDS, trust_env=False)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Deliver until `stop`. Each subscription has a loop of its own: a webhook whose receiver is slow keeps nobody
        waiting but other webhooks."""
        loops = [
            threading.Thread(target=self._run, args=(subscription,), daemon=True)
            for subscription in self._bus.push_subscriptions()
        ]
        for loop in loops:
            loop.start()
        for loop in loops:
            loop.join()

    def _run(self, subscription: str) -> None:
        with ThreadPoolExecutor(WORKERS) as workers:
            while not self._stopping.is_set():
                try:
                    taken = self._bus.take([subscription], WORKERS)
                except Exception:
                    log.exception("messages could not be read; looking again")
                    taken = []
                    self._stopping.wait(FAILURE_SECONDS)
                list(workers.map(self.deliver, taken))
                if not taken:
                    self._stopping.wait(LOOK_SECONDS)

    def stop(self) -> None:
        self._stopping.set()

    def deliver(self, taken: Taken) -> None:
        """One attempt. Raises nothing: a failure is the message's, and it comes again."""
        try:
            headers, body = as_push(taken)
            headers |= {"Authorization": f"Bearer {self._token}"}
            answer = self._client.post(f"{self._base_url}{taken.path}", content=body, headers=headers)
            if answer.is_success:
                self._bus.ack(taken.subscription, [taken.ack_id])
                return
            error = f"HTTP {answer.status_code}"
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        log.warning("%s refused message %s (%s)", taken.subscription, taken.message_id, error)
        try:
            self._bus.refuse(taken, error)
        except Exception:
            log.exception("message %s comes again when its lease ends", taken.message_id)


def as_push(taken: Taken) -> tuple[dict[str, str], bytes]:
    """Headers and body of one delivery."""
    if taken.topic == "trigger:documents":
        return _document_created(taken)
    if taken.topic == "trigger:objects":
        return _object_finalized(taken)
    return _push_envelope(taken)


def _push_envelope(taken: Taken) -> tuple[dict[str, str], bytes]:
    """The body of an owned Pub/Sub push subscription, wrapped: https://cloud.google.com/pubsub/docs/push"""
    published = _time(taken)
    message = {
        "data": base64.b64encode(taken.message).decode(),
        "attributes": dict(taken.attributes),
        "messageId": taken.message_id,
        "message_id": taken.message_id,
        "publishTime": published,
        "publish_time": published,
    }
    if taken.ordering_key:
        message["orderingKey"] = taken.ordering_key
    subscription = f"projects/local/subscriptions/{taken.subscription}"
    body = {"message": message, "subscription": subscription, "deliveryAttempt": taken.attempt}
    return {"Content-Type": "application/json"}, json.dumps(body).encode()


def _document_created(taken: Taken) -> tuple[dict[str, str], bytes]:
    """google.cloud.firestore.document.v1.created, a binary CloudEvent with protobuf inside."""
    document = taken.attributes["document"]
    headers = {
        "Content-Type": "application/protobuf",
        "ce-specversion": "1.0",
        "ce-id": f"document-{taken.message_id}",
        "ce-source": "//firestore.googleapis.com/projects/local/databases/(default)",
        "ce-type": "google.cloud.firestore.document.v1.created",
        "ce-subject": f"documents/{document}",
        "ce-time": _time(taken),
        "ce-dataschema": "https://googleapis.github.io/google-cloudevents/jsonschema/google/events/cloud/firestore/v1/DocumentEventData.json",
        "ce-document": document,
        "ce-project": "local",
        "ce-database": "(default)",
        "ce-namespace": "(default)",
        "ce-location": "local",
    }
    return headers, document_event(document, json.loads(taken.message), at=taken.published_at)


def _object_finalized(taken: Taken) -> tuple[dict[str, str], bytes]:
    """google.cloud.storage.object.v1.finalized, a binary CloudEvent with JSON inside."""
    stored = json.loads(taken.message)
    headers = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": f"object-{taken.message_id}",
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{stored['bucket']}",
        "ce-type": "google.cloud.storage.object.v1.finalized",
        "ce-subject": _printable(f"objects/{stored['name']}"),
        "ce-bucket": stored["bucket"],
        "ce-time": _time(taken),
    }
    return headers, taken.message


def _printable(text: str) -> str:
    """A header holds printable ASCII; CloudEvents percent-encodes the rest (HTTP binding, 3.1.3.2)."""
    return "".join(c if " " < c < "\x7f" and c not in '"%' else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


def _time(taken: Taken) -> str:
    return datetime.fromtimestamp(taken.published_at, UTC).isoformat().replace("+00:00", "Z")
