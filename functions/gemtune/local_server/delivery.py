"""Delivers messages and triggers over HTTP, in the shapes that Pub/Sub and Eventarc give them."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from gemtune.embedded.sqlite_bus import LeasedMessage, SqliteBus

log = logging.getLogger(__name__)

# Between looks for what has become due again. What is new wakes it, and is collected for a moment: one request commits
# several times.
LOOK_SECONDS, PAUSE_SECONDS = 0.25, 0.005
FAILURE_SECONDS = 1.0
WORKERS = 8
# An event function has as long as a delivery is leased for.
TIMEOUT_SECONDS = 110.0


class FunctionClient:
    """POSTs to one server on this machine. Ten times as cheap as a client that speaks to any."""

    def __init__(self, base_url: str, *, token: str, timeout_seconds: float):
        self._netloc, self._timeout = urlsplit(base_url).netloc, timeout_seconds
        self._authorization = {"Authorization": f"Bearer {token}"}
        self._local = threading.local()

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """Return the status code of the answer. Raises OSError, http.client.HTTPException."""
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if kept is not None:
            try:
                return self._post(kept, path, body, headers)
            except (http.client.RemoteDisconnected, ConnectionError):
                pass  # the server closes connections that were idle for long: it has not read this request
        self._local.connection = http.client.HTTPConnection(self._netloc, timeout=self._timeout)
        return self._post(self._local.connection, path, body, headers)

    def _post(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str] | None
    ) -> int:
        try:
            connection.request("POST", path, body, {**(headers or {}), **self._authorization})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except BaseException:
            connection.close()
            self._local.connection = None
            raise


@dataclass
class _Queue:
    subscription: str
    workers: ThreadPoolExecutor
    under_way: set[Future[None]] = field(default_factory=set)


class Delivery:
    """Pushes what is due; an answer of 2xx acknowledges, anything else asks for the message again."""

    def __init__(self, bus: SqliteBus, *, base_url: str, token: str):
        self._bus = bus
        self._functions = FunctionClient(base_url, token=token, timeout_seconds=TIMEOUT_SECONDS)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Deliver until `stop`. Each subscription has workers of its own: a webhook whose receiver is slow keeps nobody
        waiting but other webhooks."""
        with ExitStack() as stack:
            queues = [
                _Queue(name, stack.enter_context(ThreadPoolExecutor(WORKERS)))
                for name in self._bus.push_subscriptions()
            ]
            while not self._stopping.is_set():
                try:
                    version = self._bus.version()
                    if sum(self._hand_out(queue) for queue in queues) == 0:
                        self._bus.wait_for_newer(version, LOOK_SECONDS)
                        self._stopping.wait(PAUSE_SECONDS)
                except Exception:
                    log.exception("messages could not be read; looking again")
                    self._stopping.wait(FAILURE_SECONDS)

    def _hand_out(self, queue: _Queue) -> int:
        """Give what is due to workers that are free; return how much that was."""
        queue.under_way = {future for future in queue.under_way if not future.done()}
        free = WORKERS - len(queue.under_way)
        taken = self._bus.lease([queue.subscription], free) if free else []
        queue.under_way |= {queue.workers.submit(self.deliver, message) for message in taken}
        return len(taken)

    def stop(self) -> None:
        self._stopping.set()

    def deliver(self, taken: LeasedMessage) -> None:
        """One attempt. Raises nothing: a failure is the message's, and it comes again."""
        try:
            headers, body = push_request(taken)
            assert taken.path is not None, "subscriptions that are pushed have one"
            status = self._functions.post(taken.path, body, headers)
            if 200 <= status < 300:
                self._bus.ack(taken.subscription, [taken.ack_id])
                return
            error = f"HTTP {status}"
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        log.warning("%s refused message %s (%s)", taken.subscription, taken.message_id, error)
        try:
            self._bus.reject(taken, error)
        except Exception:
            log.exception("message %s comes again when its lease ends", taken.message_id)


def push_request(taken: LeasedMessage) -> tuple[dict[str, str], bytes]:
    """Headers and body of one delivery."""
    if taken.topic == "trigger:documents":
        return _document_created(taken)
    if taken.topic == "trigger:objects":
        return _object_finalized(taken)
    return _push_envelope(taken)


def _push_envelope(taken: LeasedMessage) -> tuple[dict[str, str], bytes]:
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


def _document_created(taken: LeasedMessage) -> tuple[dict[str, str], bytes]:
    """google.cloud.firestore.document.v1.created, a binary CloudEvent with protobuf inside."""
    from gemtune.local_server.firestore_document import document_event

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


def _object_finalized(taken: LeasedMessage) -> tuple[dict[str, str], bytes]:
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


def _time(taken: LeasedMessage) -> str:
    return datetime.fromtimestamp(taken.published_at, UTC).isoformat().replace("+00:00", "Z")
