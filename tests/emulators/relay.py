"""Stand-in for Eventarc: turns the emulators' calls into production's events.

The Firestore emulator deviates from production in these ways, which the relay corrects:
- The body is the base64 of the protobuf, not the protobuf.
- `ce-source` begins with `projects/` twice.
- An event is sent once, whatever the answer. The relay repeats a failed call, as "retry on failure" does.
- Events of the whole database are sent one by one, each after the answer to the one before. The relay answers at once,
  so that a slow function delays only its own event.

Pub/Sub notifications of fake-gcs-server become `google.cloud.storage.object.v1.finalized`; the Pub/Sub emulator
repeats the ones that fail. Two of its deviations remain, and nothing relies on them: subscriptions ignore filters, and
each refused push delays every later push of that subscription.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import httpx2

FINALIZED = "google.cloud.storage.object.v1.finalized"
# Seconds before a failed call is repeated, doubled each time up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0


class Relay:
    """Server that listens on `port` for the emulators and calls the functions."""

    def __init__(self, port: int, functions: Mapping[str, str]):
        """Serve; `functions` holds the URLs of fan_out and ingest."""
        self._functions = functions
        self.sent: list[tuple[str, Mapping[str, str], bytes]] = []  # function, headers, body
        self._client = httpx2.Client(timeout=240, trust_env=False)
        self._stopping = threading.Event()
        self._workers = ThreadPoolExecutor(16)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._workers.shutdown(cancel_futures=True)

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Relay one call of an emulator; return the status to answer it with."""
        if path.startswith("/functions/"):
            if "ce-id" in headers:
                self._workers.submit(self._send_until_accepted, *as_document_created(headers, body))
            return 204
        translated = as_object_finalized(json.loads(body))
        return 204 if translated is None else self.send("ingest", *translated)

    def _send_until_accepted(self, headers: Mapping[str, str], body: bytes) -> None:
        pause = FIRST_PAUSE
        while self.send("fan_out", headers, body) >= 300 and not self._stopping.wait(pause):
            pause = min(2 * pause, LONGEST_PAUSE)

    def send(self, function: str, headers: Mapping[str, str], body: bytes) -> int:
        """Send an event to a function; return the status of its answer."""
        self.sent.append((function, headers, body))
        try:
            answer = self._client.post(self._functions[function], headers=dict(headers), content=body)
            return answer.status_code
        except httpx2.HTTPError:
            return 503


def as_document_created(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """Convert the Firestore emulator's call into production's form."""
    sent = {name.lower(): value for name, value in headers.items() if name.lower().startswith("ce-")}
    sent["ce-source"] = sent["ce-source"].replace("projects/projects/", "projects/")
    return sent | {"content-type": "application/protobuf"}, base64.b64decode(body)


def as_object_finalized(push: Mapping[str, Any]) -> tuple[dict[str, str], bytes] | None:
    """Convert a Pub/Sub push into a storage event.

    Returns None if the notification is not about a finalized object.
    """
    message = push["message"]
    attributes = message.get("attributes", {})
    if attributes.get("eventType") != "OBJECT_FINALIZE":
        return None
    bucket, name = attributes["bucketId"], attributes["objectId"]
    headers = {
        "ce-specversion": "1.0",
        "ce-id": message["messageId"],
        "ce-type": FINALIZED,
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{bucket}",
        "ce-subject": f"objects/{quote(name)}",
        "ce-time": message["publishTime"],
        "ce-bucket": bucket,
        "content-type": "application/json",
    }
    return headers, base64.b64decode(message["data"])


def _handler(relay: Relay) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(relay.take(self.path, headers, body))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
