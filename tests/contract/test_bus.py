"""Bus: durable subscriptions, at least once, in order by key, dead letters in the end."""

from __future__ import annotations

import pytest

from gemtune.embedded.sqlite_bus import ACK_DEADLINE, MAX_ATTEMPTS, MAX_BACKOFF, Received, SqliteBus
from gemtune.ports import Topic
from tests.fakes import FakeClock, World


@pytest.fixture
def bus(backend: World) -> SqliteBus:
    found = backend.services.bus
    found.subscribe("mine", Topic.JOB_STATUS)
    return found


def publish(bus: SqliteBus, text: str, key: str = "") -> str:
    return bus.publish(Topic.JOB_STATUS, text.encode(), attributes={"type": text}, ordering_key=key)


def texts(received: list[Received]) -> list[str]:
    return [message.message.decode() for message in received]


def test_a_message_comes_with_its_attributes_and_not_again_once_acknowledged(bus: SqliteBus, clock: FakeClock) -> None:
    message_id = publish(bus, "a", "key")
    (received,) = bus.pull("mine", 10)
    assert (received.message_id, received.message, received.ordering_key) == (message_id, b"a", "key")
    assert received.attributes == {"type": "a"}
    bus.ack("mine", [received.ack_id])
    clock.advance(days=1)
    assert bus.pull("mine", 10) == []


def test_a_message_that_is_not_acknowledged_comes_again(bus: SqliteBus, clock: FakeClock) -> None:
    publish(bus, "a")
    assert texts(bus.pull("mine", 10)) == ["a"]
    assert bus.pull("mine", 10) == []
    clock.advance(seconds=ACK_DEADLINE)
    (again,) = bus.pull("mine", 10)
    assert again.attempt == 2


def test_each_subscription_gets_each_message_of_its_topic_from_its_beginning_on(bus: SqliteBus) -> None:
    publish(bus, "early")
    bus.subscribe("yours", Topic.JOB_STATUS)
    bus.subscribe("yours", Topic.JOB_STATUS)
    publish(bus, "late")
    bus.publish(Topic.JOB_REQUESTS, b"elsewhere")
    assert texts(bus.pull("mine", 10)) == ["early", "late"]
    assert texts(bus.pull("yours", 10)) == ["late"]
    with pytest.raises(ValueError, match="job-status"):
        bus.subscribe("yours", Topic.JOB_REQUESTS)


def test_messages_of_one_key_wait_for_each_other_and_for_no_other_key(bus: SqliteBus, clock: FakeClock) -> None:
    for text in ("a1", "b1", "a2", "b2"):
        publish(bus, text, text[0])
    first = bus.pull("mine", 10)
    assert texts(first) == ["a1", "b1"]
    assert bus.pull("mine", 10) == []
    bus.ack("mine", [first[0].ack_id])
    assert texts(bus.pull("mine", 10)) == ["a2"]


def test_a_refused_message_waits_longer_each_time_and_becomes_a_dead_letter(
    bus: SqliteBus, clock: FakeClock, backend: World
) -> None:
    publish(bus, "bad", "key")
    publish(bus, "good", "key")
    waits = []
    for _ in range(MAX_ATTEMPTS):
        waited = 0
        while not (received := bus.pull("mine", 1)):
            clock.advance(seconds=0.5)
            waited += 1
        assert texts(received) == ["bad"]
        waits.append(waited / 2)
        bus.refuse(received[0], "HTTP 500")
    assert waits[:5] == [0, 0.5, 1, 2, 4]
    assert max(waits) == MAX_BACKOFF
    assert texts(bus.pull("mine", 10)) == ["good"]
    (dead,) = backend.services.database.read().execute("SELECT * FROM dead_letters").fetchall()
    assert (dead["body"], dead["attempts"], dead["error"]) == (b"bad", MAX_ATTEMPTS, "HTTP 500")


def test_a_message_that_nobody_reads_is_kept_for_a_week(bus: SqliteBus, clock: FakeClock) -> None:
    publish(bus, "old")
    clock.advance(days=6)
    bus.expire()
    publish(bus, "new")
    clock.advance(days=2)
    bus.expire()
    assert texts(bus.pull("mine", 10)) == ["new"]


def test_after_a_restart_push_deliveries_are_due_at_once(backend: World) -> None:
    bus = backend.services.bus
    bus.publish(Topic.JOB_REQUESTS, b"x")
    assert texts(bus.take(["dispatch"], 1)) == ["x"]
    assert bus.take(["dispatch"], 1) == []
    bus.release()
    assert texts(bus.take(["dispatch"], 1)) == ["x"]
