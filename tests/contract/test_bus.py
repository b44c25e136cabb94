"""Bus: durable subscriptions, at least once, in order by key.

Dead letters are the platform's part: tests/unit/embedded/test_sqlite_bus.py asks for those of embedded, and
tests/e2e/test_gcp.py for those of Pub/Sub.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from gemtune.ports import Bus, ReceivedMessage, Topic
from tests.fakes import World


@pytest.fixture(autouse=True)
def subscribed(bus: Bus) -> None:
    bus.subscribe("mine", Topic.JOB_STATUS)


def publish(bus: Bus, text: str, key: str = "") -> str:
    return bus.publish(Topic.JOB_STATUS, text.encode(), attributes={"type": text}, ordering_key=key)


def texts(received: Sequence[ReceivedMessage]) -> list[str]:
    return [message.message.decode() for message in received]


def test_a_message_comes_with_its_attributes_and_not_again_once_acknowledged(bus: Bus, backend: World) -> None:
    message_id = publish(bus, "a", "key")
    (received,) = bus.pull("mine", 10)
    assert (received.message_id, received.message, received.ordering_key) == (message_id, b"a", "key")
    assert received.attributes == {"type": "a"}
    bus.ack("mine", [received.ack_id])
    bus.ack("mine", [])
    backend.clock.advance(days=1)
    assert bus.pull("mine", 10) == []


def test_who_waits_for_a_message_gets_it_when_it_comes(bus: Bus) -> None:
    other = threading.Thread(target=publish, args=(bus, "a"))
    other.start()
    assert texts(bus.pull("mine", 10, wait_seconds=100)) == ["a"]
    other.join()


def test_a_message_that_is_not_acknowledged_comes_again(bus: Bus, backend: World) -> None:
    publish(bus, "a")
    received = bus.pull("mine", 10)
    assert bus.pull("mine", 10) == []
    backend.pass_ack_deadline("mine", received)
    (again,) = bus.pull("mine", 10)
    assert again.message_id == received[0].message_id


def test_each_subscription_gets_each_message_of_its_topic_from_its_beginning_on(bus: Bus) -> None:
    publish(bus, "early")
    bus.subscribe("yours", Topic.JOB_STATUS)
    bus.subscribe("yours", Topic.JOB_STATUS)
    publish(bus, "late")
    bus.publish(Topic.JOB_REQUESTS, b"elsewhere")
    assert sorted(texts(bus.pull("mine", 10) + bus.pull("mine", 10))) == ["early", "late"]
    assert texts(bus.pull("yours", 10)) == ["late"]
    with pytest.raises(ValueError, match="job-status"):
        bus.subscribe("yours", Topic.JOB_REQUESTS)


def test_messages_of_one_key_come_in_their_order_even_when_the_first_one_comes_again(bus: Bus, backend: World) -> None:
    for text in ("a1", "b1", "a2", "b2", "a3"):
        publish(bus, text, text[0])
    heard: list[str] = []
    refused = False
    for _ in range(20):
        received = bus.pull("mine", 10)
        if not refused and any(message.message == b"a1" for message in received):
            refused = True
            backend.pass_ack_deadline("mine", received)
            continue
        heard += texts(received)
        bus.ack("mine", [message.ack_id for message in received])
        if len(set(heard)) == 5:
            break
    assert refused
    assert [text for text in dict.fromkeys(heard) if text[0] == "a"] == ["a1", "a2", "a3"]
    assert [text for text in dict.fromkeys(heard) if text[0] == "b"] == ["b1", "b2"]


def test_what_thirty_publish_at_once_is_all_there(bus: Bus) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(lambda number: publish(bus, str(number), f"key{number % 3}"), range(90)))
    heard: set[str] = set()
    for _ in range(200):
        received = bus.pull("mine", 100)
        heard |= set(texts(received))
        bus.ack("mine", [message.ack_id for message in received])
        if len(heard) == 90:
            break
    assert heard == {str(number) for number in range(90)}
