"""Eventarc on this machine: turns the emulators' calls into the CloudEvents that production sends, and sends them.

What the Firestore emulator does otherwise than production, and is mended here:
- its body is base64 of the protobuf, not the protobuf;
- its `ce-source` begins with `projects/` twice;
- it calls once, whatever the answer: here a failed call is repeated, as with "retry on failure";
- it calls one after the other for the whole database, and waits for each: here it is answered at once, and documents
  wait for nobody but themselves.

What fake-gcs-server publishes as a Pub/Sub notification becomes `google.cloud.storage.object.v1.finalized`; there the
Pub/Sub emulator repeats what fails. Not mended: its subscriptions ignore filters, and each refused push makes it wait
longer before it pushes anything of that subscription. Nothing here relies on either.
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
# Seconds before a failed trigger is repeated: doubled each time.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0


class Relay:
    """Listens on `port` for the emulators and calls the functions below `functions_url`."""

    def __init__(self, port: int, functions_url: str):
        self._functions_url = functions_url
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
        """The status to answer the emulator with."""
        if path.startswith("/functions/"):
            if "ce-id" in headers:
                self._workers.submit(self._until_taken, *as_document_created(headers, body))
            return 204
        translated = as_object_finalized(json.loads(body))
        return 204 if translated is None else self.send("ingest", *translated)

    def _until_taken(self, headers: Mapping[str, str], body: bytes) -> None:
        pause = FIRST_PAUSE
        while self.send("fan_out", headers, body) >= 300 and not self._stopping.wait(pause):
            pause = min(2 * pause, LONGEST_PAUSE)

    def send(self, function: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status that a function answers an event with."""
        self.sent.append((function, headers, body))
        try:
            answer = self._client.post(f"{self._functions_url}/{function}/", headers=dict(headers), content=body)
            return answer.status_code
        except httpx2.HTTPError:
            return 503


def as_document_created(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and body of the event as production sends it."""
    sent = {name.lower(): value for name, value in headers.items() if name.lower().startswith("ce-")}
    sent["ce-source"] = sent["ce-source"].replace("projects/projects/", "projects/")
    return sent | {"content-type": "application/protobuf"}, base64.b64decode(body)


def as_object_finalized(push: Mapping[str, Any]) -> tuple[dict[str, str], bytes] | None:
    """The event behind a notification; None for one of another kind."""
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
