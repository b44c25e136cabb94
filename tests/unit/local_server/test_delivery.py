"""Delivery of messages: only a 2xx status acknowledges one."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gemtune.embedded.sqlite_bus import LeasedMessage
from gemtune.local_server.delivery import WORKERS, Delivery, Functions, push_request
from gemtune.local_server.server import _answer, _guarded
from gemtune.ports import Topic
from tests.fakes import World


class Receiver:
    """WSGI app that answers each delivery with the next of its statuses."""

    def __init__(self, *statuses: str) -> None:
        self.statuses = list(statuses)
        self.requests: list[tuple[str, str, bytes]] = []
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Receiver:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        self.requests.append((environ["PATH_INFO"], environ["CONTENT_TYPE"], body))
        start_response(self.statuses.pop(0), [])
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"", b"content"])

    def close(self) -> None:
        self.closed += 1


def test_a_message_is_delivered_until_it_is_acknowledged(world: World) -> None:
    bus = world.services.bus
    receiver = Receiver("500 Internal Server Error", "404 Not Found", "204 No Content")
    delivery = Delivery(bus, Functions(receiver))
    bus.publish(Topic.JOB_REQUESTS, b"{}")
    for wait in (0, 0.5, 1):
        world.clock.advance(seconds=wait)
        for received in bus.lease(["dispatch"], 9):
            delivery.deliver(received)
    assert {(path, kind) for path, kind, _ in receiver.requests} == {
        ("/dispatch/projects/local/topics/job-requests", "application/json")
    }
    attempts = [json.loads(body)["deliveryAttempt"] for _, _, body in receiver.requests]
    assert (attempts, receiver.closed) == ([1, 2, 3], 3)
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

    delivery = Slow(bus, Functions(Receiver()))
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


def test_a_function_that_raises_costs_one_attempt(world: World) -> None:
    bus = world.services.bus
    delivery = Delivery(bus, Functions(Receiver()))  # it has no answer
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


def test_a_subscription_gets_no_more_messages_than_it_has_workers(world: World) -> None:
    """Answer each delivery only when all others of its subscription run."""
    bus, running, most = world.services.bus, threading.Semaphore(0), 0
    release, done, count = threading.Event(), threading.Semaphore(0), 0
    lock = threading.Lock()

    class Counting(Delivery):
        def deliver(self, delivery: LeasedMessage) -> None:
            nonlocal count, most
            with lock:
                count += 1
                most = max(most, count)
            running.release()
            release.wait()
            with lock:
                count -= 1
            bus.ack(delivery.subscription, [delivery.ack_id])
            done.release()

    for _ in range(WORKERS + 3):
        bus.publish(Topic.JOB_REQUESTS, b"{}")
    delivery = Counting(bus, Functions(Receiver()))
    loop = threading.Thread(target=delivery.run, daemon=True)
    loop.start()
    for _ in range(WORKERS):
        running.acquire()
    release.set()
    for _ in range(WORKERS + 3):
        done.acquire()
    delivery.stop()
    loop.join()
    assert most == WORKERS


class ClosedServer:
    """Server whose sockets are closed while it waits for them."""

    def run(self) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")


def test_sockets_closed_at_the_end_are_no_error_and_others_are() -> None:
    is_stopping = threading.Event()
    with pytest.raises(OSError, match="Bad file"):
        _answer(ClosedServer(), is_stopping)
    is_stopping.set()
    _answer(ClosedServer(), is_stopping)
