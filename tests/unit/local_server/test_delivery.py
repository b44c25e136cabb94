"""Delivery of messages over HTTP: only a 2xx status acknowledges one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gemtune.embedded.sqlite_bus import LeasedMessage
from gemtune.local_server.delivery import WORKERS, Delivery, push_request
from gemtune.local_server.server import _guarded
from gemtune.ports import Topic
from tests.fakes import World


class Receiver:
    """HTTP server that answers each delivery with the next of its statuses."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((self.path, dict(self.headers)))
                self.send_response(receiver.statuses.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    http_receiver = Receiver()
    yield http_receiver
    http_receiver.server.shutdown()
    http_receiver.server.server_close()


def test_a_message_is_delivered_until_it_is_acknowledged(world: World, receiver: Receiver) -> None:
    bus = world.services.bus
    delivery = Delivery(bus, base_url=receiver.url, token="fake-token")
    bus.publish(Topic.JOB_REQUESTS, b"{}")
    receiver.statuses = [500, 404, 204]
    for wait in (0, 0.5, 1):
        world.clock.advance(seconds=wait)
        for received in bus.lease(["dispatch"], 9):
            delivery.deliver(received)
    assert [path for path, _ in receiver.requests] == ["/dispatch/projects/local/topics/job-requests"] * 3
    assert all(headers["Authorization"] == "Bearer fake-token" for _, headers in receiver.requests)
    world.clock.advance(days=1)
    assert bus.lease(["dispatch"], 9) == []


def test_a_slow_receiver_delays_only_its_own_subscription(world: World) -> None:
    """Deliver webhooks that are never answered, more than there are workers."""
    bus, busy, done = world.services.bus, threading.Semaphore(0), threading.Event()

    class Slow(Delivery):
        def deliver(self, delivery: LeasedMessage) -> None:
            if delivery.subscription == "notify":
                busy.release()
                done.wait()
            else:
                bus.ack(delivery.subscription, [delivery.ack_id])
                done.set()

    delivery = Slow(bus, base_url="http://127.0.0.1:9", token="fake-token")
    for _ in range(2 * WORKERS):
        bus.publish(Topic.WEBHOOKS, b"{}")
    running = threading.Thread(target=delivery.run, daemon=True)
    running.start()
    for _ in range(WORKERS):
        busy.acquire()
    bus.publish(Topic.JOB_REQUESTS, b"{}")
    assert done.wait(200)
    delivery.stop()
    running.join()


def test_a_receiver_that_is_down_costs_one_attempt(world: World) -> None:
    bus = world.services.bus
    delivery = Delivery(bus, base_url="http://127.0.0.1:9", token="fake-token")
    bus.publish(Topic.JOB_REQUESTS, b"{}")
    (received,) = bus.lease(["dispatch"], 9)
    delivery.deliver(received)
    world.clock.advance(seconds=0.5)
    assert [message.attempt for message in bus.lease(["dispatch"], 9)] == [2]


def test_a_name_outside_ascii_is_escaped_in_the_header_and_unchanged_in_the_body(world: World) -> None:
    from gemtune.local_server.uploads import Uploads

    world.services.buckets.uploads.write('ünï "x" 100%.job.json', b"{}")
    uploads = Uploads(world.services.database, world.services.buckets, clock=world.clock)
    uploads.scan()
    uploads.scan()
    (received,) = world.services.bus.lease(["ingest"], 9)
    headers, body = push_request(received)
    assert headers["ce-subject"] == "objects/%C3%BCn%C3%AF%20%22x%22%20100%25.job.json"
    assert json.loads(body)["name"] == 'ünï "x" 100%.job.json'


@pytest.mark.parametrize(
    ("sent", "status"), [("Bearer fake", "200 OK"), ("Bearer other", "403 Forbidden"), (None, "403 Forbidden")]
)
def test_events_without_the_token_are_forbidden(sent: str | None, status: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    answered: list[str] = []
    environ = {} if sent is None else {"HTTP_AUTHORIZATION": sent}
    list(_guarded(app, "fake")(environ, lambda status, headers: answered.append(status)))
    assert answered == [status]
