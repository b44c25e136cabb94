"""The relay corrects each deviation of the emulators from production."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, pubsub_v1, storage
from google.events.cloud.firestore import DocumentEventData

from tests.e2e.api import wait_for
from tests.emulators.google import PROJECT, STORAGE_EVENTS, Emulators
from tests.emulators.relay import FINALIZED, Relay

pytestmark = pytest.mark.emulators


class Functions:
    """Server that records what the relay sends.

    It answers with `statuses` one by one, then with 200.
    """

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.barrier = threading.Barrier(1)
        functions = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                functions.barrier.wait(60)  # a slow function: it waits until enough others are called too
                functions.received.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(functions.statuses.pop(0) if functions.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture(scope="module")
def served() -> Iterator[Functions]:
    functions = Functions()
    yield functions
    functions.server.shutdown()
    functions.server.server_close()


@pytest.fixture
def functions(served: Functions) -> Functions:
    served.received, served.statuses, served.barrier = [], [], threading.Barrier(1)
    return served


# One relay for the module: the emulator keeps its connection, and loses the first call after a relay is replaced.
@pytest.fixture(scope="module")
def relay(emulators: Emulators, served: Functions) -> Iterator[Relay]:
    functions = {name: f"{served.url}/{name}/" for name in ("fan_out", "ingest")}
    relay = Relay(emulators.triggers_port, functions)
    trigger = {
        "eventType": "google.cloud.firestore.document.v1.created",
        "database": "(default)",
        "namespace": "(default)",
        "document": {"value": "relayed/{id}", "matchType": "PATH_PATTERN"},
    }
    url = f"http://{emulators.firestore}/emulator/v1/projects/{PROJECT}/eventarcTrigger?eventarcTriggerId=relayed"
    httpx2.post(url, json=trigger, trust_env=False).raise_for_status()
    yield relay
    relay.stop()


def test_a_created_document_arrives_as_production_sends_it(relay: Relay, functions: Functions) -> None:
    firestore.Client(project=PROJECT).collection("relayed").document("one").set({"seq": 1})
    wait_for(lambda: functions.received, seconds=240, what="the event")
    path, headers, body = functions.received[0]
    assert path == "/fan_out/"
    assert headers["ce-type"] == "google.cloud.firestore.document.v1.created"
    assert headers["ce-source"] == f"//firestore.googleapis.com/projects/{PROJECT}/databases/(default)"
    assert headers["content-type"] == "application/protobuf"
    document = DocumentEventData.deserialize(body).value
    assert document.name.endswith("/documents/relayed/one")
    assert document.fields["seq"].integer_value == 1


def test_a_refused_event_is_sent_again(relay: Relay, functions: Functions) -> None:
    functions.statuses = [500, 503]
    firestore.Client(project=PROJECT).collection("relayed").document("two").set({"seq": 1})
    wait_for(lambda: len(functions.received) == 3, seconds=240, what="the third attempt")
    assert len({headers["ce-id"] for _, headers, _ in functions.received}) == 1


def test_a_slow_function_delays_no_other_event(relay: Relay, functions: Functions) -> None:
    """The emulator, in contrast, waits for each answer before the next event."""
    functions.barrier = threading.Barrier(8)
    database = firestore.Client(project=PROJECT)
    for number in range(8):
        database.collection("relayed").document(f"slow{number}").set({"seq": number})
    wait_for(lambda: len(functions.received) == 8, seconds=240, what="all events")


@pytest.fixture
def storage_events(emulators: Emulators, relay: Relay) -> Iterator[None]:
    """Let Pub/Sub push storage events to the relay until the test ends."""
    subscription, topic = f"projects/{PROJECT}/subscriptions/relayed", f"projects/{PROJECT}/topics/{STORAGE_EVENTS}"
    push = {"push_endpoint": f"{relay.url}/storage"}
    with pubsub_v1.PublisherClient() as publisher, pubsub_v1.SubscriberClient() as subscriber:
        publisher.create_topic(name=topic)
        subscriber.create_subscription(name=subscription, topic=topic, push_config=push)
        yield
        subscriber.delete_subscription(subscription=subscription)


@pytest.mark.usefixtures("storage_events")
def test_an_uploaded_object_arrives_as_a_storage_event(functions: Functions) -> None:
    bucket = storage.Client(project=PROJECT, credentials=AnonymousCredentials()).create_bucket("relayed")
    functions.statuses = [500]  # so that it has to be sent again
    blob = bucket.blob("in/ü x.job.json")
    blob.upload_from_string(b"{}")
    wait_for(lambda: len(functions.received) >= 2, seconds=240, what="the second attempt")
    path, headers, body = functions.received[-1]
    stored = json.loads(body)
    assert (path, headers["ce-type"]) == ("/ingest/", FINALIZED)
    assert headers["ce-source"] == "//storage.googleapis.com/projects/_/buckets/relayed"
    assert (stored["bucket"], stored["name"], str(stored["generation"])) == (
        "relayed",
        "in/ü x.job.json",
        str(blob.generation),
    )


def test_base64_and_a_doubled_source_are_corrected() -> None:
    """The input is a call recorded from the emulator."""
    from tests.emulators.relay import as_document_created

    sent = {
        "ce-id": "1",
        "ce-type": "google.cloud.firestore.document.v1.created",
        "ce-source": "//firestore.googleapis.com/projects/projects/p/databases/(default)",
        "host": "127.0.0.1",
    }
    headers, body = as_document_created(sent, base64.b64encode(b"protobuf"))
    assert headers["ce-source"] == "//firestore.googleapis.com/projects/p/databases/(default)"
    assert (body, "host" in headers) == (b"protobuf", False)


def test_another_kind_of_notification_is_acknowledged_without_an_event(
    relay: Relay, functions: Functions, tmp_path: Path
) -> None:
    push = {"message": {"attributes": {"eventType": "OBJECT_DELETE"}, "data": "", "messageId": "1", "publishTime": ""}}
    assert httpx2.post(f"{relay.url}/storage", json=push, trust_env=False).status_code == 204
    assert functions.received == []
