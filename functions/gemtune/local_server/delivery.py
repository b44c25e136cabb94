"""Delivery of messages and triggers to the functions.

The requests have the formats of Pub/Sub and Eventarc.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

from gemtune.embedded.sqlite_bus import LeasedMessage, SqliteBus

log = logging.getLogger(__name__)

# Seconds between two polls for messages that have become due again, and of a pause after each commit: new messages wake
# the loop, and one request commits several times.
POLL_SECONDS, PAUSE_SECONDS = 0.25, 0.005
FAILURE_SECONDS = 1.0
WORKERS = 8


class Functions:
    """Functions of this process, which are called by requests as over HTTP.

    A connection would take more processor time than most functions take themselves.
    """

    def __init__(self, app: Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]):
        """app: the WSGI app with all functions, each at `/<name>`."""
        self._app = app

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> int:
        """POST a body and return the response's status code."""
        environment = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in (headers or {}).items():
            variable = name.upper().replace("-", "_")
            environment[variable if variable == "CONTENT_TYPE" else f"HTTP_{variable}"] = value
        statuses: list[str] = []
        answer = self._app(environment, lambda status, headers, error=None: statuses.append(status))
        try:
            for _ in answer:
                pass
        finally:
            if isinstance(answer, _Closable):
                answer.close()
        return int(statuses[-1].split()[0])


@runtime_checkable
class _Closable(Protocol):
    """Answer of a WSGI app that has to be closed."""

    def close(self) -> None: ...


@dataclass
class _SubscriptionWorkers:
    """Workers of one push subscription and the deliveries they are making."""

    name: str
    workers: ThreadPoolExecutor
    pending: set[Future[None]] = field(default_factory=set)

    def free(self) -> int:
        """Return how many workers make no delivery."""
        self.pending = {future for future in self.pending if not future.done()}
        return WORKERS - len(self.pending)


class Delivery:
    """Pushes due messages to the functions.

    A 2xx response acknowledges a message; after any other it is delivered again.
    """

    def __init__(self, bus: SqliteBus, functions: Functions):
        self._bus, self._functions = bus, functions
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
                    if self._submit_due(subscriptions) == 0:
                        self._bus.wait_for_newer(version, POLL_SECONDS)
                        self._stopping.wait(PAUSE_SECONDS)
                except Exception:
                    log.exception("messages could not be read; trying again")
                    self._stopping.wait(FAILURE_SECONDS)

    def _submit_due(self, subscriptions: Sequence[_SubscriptionWorkers]) -> int:
        """Lease due messages for free workers; return how many.

        All subscriptions are looked through at once, so none gets more messages than the one with the fewest free
        workers has; the others get theirs at the next call.
        """
        free = {each.name: each.free() for each in subscriptions}
        names = [name for name, workers in free.items() if workers]
        messages = self._bus.lease(names, min(free[name] for name in names)) if names else []
        for message in messages:
            subscription = next(each for each in subscriptions if each.name == message.subscription)
            subscription.pending.add(subscription.workers.submit(self.deliver, message))
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
