"""Delivery of messages and triggers over HTTP.

The requests have the formats of Pub/Sub and Eventarc.
"""

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

# Seconds between two polls for messages that have become due again, and of a pause after each commit: new messages wake
# the loop, and one request commits several times.
POLL_SECONDS, PAUSE_SECONDS = 0.25, 0.005
FAILURE_SECONDS = 1.0
WORKERS = 8
# Time limit of one delivery; a little below its lease (PUSH_DEADLINE).
TIMEOUT_SECONDS = 110.0


class FunctionClient:
    """HTTP client for one local server, with one connection per thread.

    A request costs a tenth of what a general HTTP client needs.
    """

    def __init__(self, base_url: str, *, token: str, timeout_seconds: float):
        self._netloc, self._timeout = urlsplit(base_url).netloc, timeout_seconds
        self._authorization = {"Authorization": f"Bearer {token}"}
        self._local = threading.local()

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """POST a body and return the response's status code.

        Raises OSError, http.client.HTTPException.
        """
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return self._post(connection, path, body, headers)
            except (http.client.RemoteDisconnected, ConnectionError):
                pass  # the server has closed the idle connection without reading this request: connect again
        self._local.connection = http.client.HTTPConnection(self._netloc, timeout=self._timeout)
        return self._post(self._local.connection, path, body, headers)

    def _post(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str] | None
    ) -> int:
        """Send a request on a connection; close it after any error."""
        try:
            connection.request("POST", path, body, {**(headers or {}), **self._authorization})
            response = connection.getresponse()
            response.read()
            return response.status
        except BaseException:
            connection.close()
            self._local.connection = None
            raise


@dataclass
class _SubscriptionWorkers:
    """Workers of one push subscription and the deliveries they are making."""

    name: str
    workers: ThreadPoolExecutor
    pending: set[Future[None]] = field(default_factory=set)


class Delivery:
    """Pushes due messages to the functions.

    A 2xx response acknowledges a message; after any other it is delivered again.
    """

    def __init__(self, bus: SqliteBus, *, base_url: str, token: str):
        self._bus = bus
        self._functions = FunctionClient(base_url, token=token, timeout_seconds=TIMEOUT_SECONDS)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Deliver messages until `stop` is called.

        Each subscription has its own workers, so that a slow webhook receiver delays only other webhooks.
        """
        with ExitStack() as stack:
            subscriptions = [
                _SubscriptionWorkers(name, stack.enter_context(ThreadPoolExecutor(WORKERS)))
                for name in self._bus.push_subscriptions()
            ]
            while not self._stopping.is_set():
                try:
                    version = self._bus.version()
                    if sum(self._submit_due(subscription) for subscription in subscriptions) == 0:
                        self._bus.wait_for_newer(version, POLL_SECONDS)
                        self._stopping.wait(PAUSE_SECONDS)
                except Exception:
                    log.exception("messages could not be read; trying again")
                    self._stopping.wait(FAILURE_SECONDS)

    def _submit_due(self, subscription: _SubscriptionWorkers) -> int:
        """Lease due messages for free workers; return how many."""
        subscription.pending = {future for future in subscription.pending if not future.done()}
        free = WORKERS - len(subscription.pending)
        messages = self._bus.lease([subscription.name], free) if free else []
        subscription.pending |= {subscription.workers.submit(self.deliver, message) for message in messages}
        return len(messages)

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    def deliver(self, message: LeasedMessage) -> None:
        """Make one delivery attempt, then acknowledge or reject the message.

        Raises nothing: after any failure, the message is delivered again later.
        """
        try:
            headers, body = push_request(message)
            assert message.path is not None, "a push subscription has a path"
            status = self._functions.post(message.path, body, headers)
            if 200 <= status < 300:
                self._bus.ack(message.subscription, [message.ack_id])
                return
            error = f"HTTP {status}"
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        log.warning("%s rejected message %s (%s)", message.subscription, message.message_id, error)
        try:
            self._bus.reject(message, error)
        except Exception:
            log.exception("message %s will be delivered again when its lease ends", message.message_id)


def push_request(message: LeasedMessage) -> tuple[dict[str, str], bytes]:
    """Return the headers and body of the HTTP request that delivers a message."""
    if message.topic == "trigger:documents":
        return _document_created(message)
    if message.topic == "trigger:objects":
        return _object_finalized(message)
    return _push_envelope(message)


def _push_envelope(message: LeasedMessage) -> tuple[dict[str, str], bytes]:
    """Return a wrapped Pub/Sub push request.

    Format: https://cloud.google.com/pubsub/docs/push
    """
    published = _publish_time(message)
    content = {
        "data": base64.b64encode(message.message).decode(),
        "attributes": dict(message.attributes),
        "messageId": message.message_id,
        "message_id": message.message_id,
        "publishTime": published,
        "publish_time": published,
    }
    if message.ordering_key:
        content["orderingKey"] = message.ordering_key
    subscription = f"projects/local/subscriptions/{message.subscription}"
    body = {"message": content, "subscription": subscription, "deliveryAttempt": message.attempt}
    return {"Content-Type": "application/json"}, json.dumps(body).encode()


def _document_created(message: LeasedMessage) -> tuple[dict[str, str], bytes]:
    """Return the request for google.cloud.firestore.document.v1.created.

    It is a CloudEvent in binary mode with a protobuf body.
    """
    from gemtune.local_server.firestore_document import document_event

    document = message.attributes["document"]
    headers = {
        "Content-Type": "application/protobuf",
        "ce-specversion": "1.0",
        "ce-id": f"document-{message.message_id}",
        "ce-source": "//firestore.googleapis.com/projects/local/databases/(default)",
        "ce-type": "google.cloud.firestore.document.v1.created",
        "ce-subject": f"documents/{document}",
        "ce-time": _publish_time(message),
        "ce-dataschema": "https://googleapis.github.io/google-cloudevents/jsonschema/google/events/cloud/firestore/v1/DocumentEventData.json",
        "ce-document": document,
        "ce-project": "local",
        "ce-database": "(default)",
        "ce-namespace": "(default)",
        "ce-location": "local",
    }
    return headers, document_event(document, json.loads(message.message), at=message.published_at)


def _object_finalized(message: LeasedMessage) -> tuple[dict[str, str], bytes]:
    """Return the request for google.cloud.storage.object.v1.finalized.

    It is a CloudEvent in binary mode with a JSON body.
    """
    stored = json.loads(message.message)
    headers = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": f"object-{message.message_id}",
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{stored['bucket']}",
        "ce-type": "google.cloud.storage.object.v1.finalized",
        "ce-subject": _header_value(f"objects/{stored['name']}"),
        "ce-bucket": stored["bucket"],
        "ce-time": _publish_time(message),
    }
    return headers, message.message


def _header_value(text: str) -> str:
    """Percent-encode a value for a CloudEvents header.

    See the HTTP binding, section 3.1.3.2. Allowed are printable ASCII characters except space, the double quote and the
    percent sign.
    """
    return "".join(c if " " < c < "\x7f" and c not in '"%' else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


def _publish_time(message: LeasedMessage) -> str:
    """Return a message's publish time in RFC 3339 format."""
    return datetime.fromtimestamp(message.published_at, UTC).isoformat().replace("+00:00", "Z")
