"""Delivery of messages: only a receiver that returns acknowledges one."""

from __future__ import annotations

import errno
import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from gemtune.embedded.sqlite_bus import LeasedMessage
from gemtune.local_server.delivery import WORKERS, Delivery, receivers
from gemtune.local_server.server import _answer, _guarded
from gemtune.local_server.uploads import Uploads
from gemtune.ports import Topic
from tests.fakes import World, request


def refuse(message: LeasedMessage) -> None:
    raise ValueError("no hf_abcdefgh")


def test_a_message_is_delivered_until_it_is_acknowledged(world: World) -> None:
    bus = world.services.bus
    outcomes, attempts = [refuse, refuse, lambda message: None], []

    def dispatch(message: LeasedMessage) -> None:
        attempts.append(message.attempt)
        outcomes.pop(0)(message)

    delivery = Delivery(bus, {"dispatch": dispatch})
    bus.publish(Topic.JOB_REQUESTS, b"{}")
    for wait in (0, 0.5, 1):
        world.clock.advance(seconds=wait)
        for received in bus.lease(["dispatch"], 9):
            delivery.deliver(received)
    assert attempts == [1, 2, 3]
    world.clock.advance(days=1)
    assert bus.lease(["dispatch"], 9) == []


def test_a_dead_letter_says_why_without_tokens(world: World) -> None:
    bus = world.services.bus
    delivery = Delivery(bus, {"dispatch": refuse})
    bus.publish(Topic.JOB_REQUESTS, b"{}")
    for _ in range(20):
        (received,) = bus.lease(["dispatch"], 9)
        delivery.deliver(received)
        world.clock.advance(seconds=60)
    (dead,) = world.services.database.read().execute("SELECT error FROM dead_letters").fetchall()
    assert dead["error"] == "ValueError: no [secret]"


def test_an_accepted_job_is_launched_and_its_event_published(world: World) -> None:
    world.services.bus.subscribe("listener", Topic.JOB_STATUS)
    job_id = world.submit()
    delivery = Delivery(world.services.bus, receivers(world.services))
    for message in world.services.bus.lease(["dispatch", "fan_out"], 9):
        delivery.deliver(message)
    assert world.launcher.started == [(job_id, 1)]
    assert [event["type"] for event in world.messages("listener")] == ["job_queued"]


def test_a_request_in_a_message_becomes_one_job_however_often_it_is_delivered(world: World) -> None:
    world.services.bus.publish(Topic.JOB_REQUESTS, json.dumps(request()).encode())
    (message,) = world.services.bus.lease(["dispatch"], 9)
    for _ in range(2):
        receivers(world.services)["dispatch"](message)
    (job,) = world.services.store.unfinished()
    assert job.idempotency_key == f"job-requests/{message.message_id}"


def test_a_job_file_in_the_folder_becomes_a_job(world: World) -> None:
    world.services.buckets.uploads.write('ünï "x" 100%.job.json', json.dumps(request()).encode())
    uploads = Uploads(world.services.database, world.services.buckets, clock=world.clock)
    uploads.scan()
    uploads.scan()
    (message,) = world.services.bus.lease(["ingest"], 9)
    receivers(world.services)["ingest"](message)
    (job,) = world.services.store.unfinished()
    assert job.source == "upload"


def test_a_webhook_is_sent(world: World) -> None:
    posted: list[str] = []
    posting = lambda url, body, headers: posted.append(url) or 204  # noqa: E731
    world.services.__dict__["notify"] = replace(world.services.notify, post=posting)
    world.submit(notify={"webhook_url": "https://example.com/hook"})
    for name in ("fan_out", "notify"):
        for message in world.services.bus.lease([name], 9):
            receivers(world.services)[name](message)
    assert posted == ["https://example.com/hook"]


def test_every_push_subscription_has_a_receiver(world: World) -> None:
    assert set(world.services.bus.push_subscriptions()) == set(receivers(world.services))


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

    delivery = Slow(bus, {})
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
    delivery = Counting(bus, {})
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
