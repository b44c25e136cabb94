"""Bus: durable subscriptions, delivery at least once, and order by key.

Dead letters are up to the platform: tests/unit/embedded/test_sqlite_bus.py tests those of the workstation, and
tests/e2e/test_gcp.py those of Pub/Sub.
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


def test_an_acknowledged_message_is_delivered_once_with_its_attributes(bus: Bus, backend: World) -> None:
    message_id = publish(bus, "a", "key")
    (received,) = bus.pull("mine", 10)
    assert (received.message_id, received.message, received.ordering_key) == (message_id, b"a", "key")
    assert received.attributes == {"type": "a"}
    bus.ack("mine", [received.ack_id])
    bus.ack("mine", [])
    backend.clock.advance(days=1)
    assert bus.pull("mine", 10) == []


def test_a_waiting_pull_returns_when_a_message_is_published(bus: Bus) -> None:
    other = threading.Thread(target=publish, args=(bus, "a"))
    other.start()
    assert texts(bus.pull("mine", 10, wait_seconds=100)) == ["a"]
    other.join()


def test_a_message_without_acknowledgement_is_redelivered(bus: Bus, backend: World) -> None:
    publish(bus, "a")
    received = bus.pull("mine", 10)
    assert bus.pull("mine", 10) == []
    backend.pass_ack_deadline("mine", received)
    (redelivered,) = bus.pull("mine", 10)
    assert redelivered.message_id == received[0].message_id


def test_each_subscription_gets_the_messages_published_after_it_was_created(bus: Bus) -> None:
    publish(bus, "early")
    bus.subscribe("yours", Topic.JOB_STATUS)
    bus.subscribe("yours", Topic.JOB_STATUS)
    publish(bus, "late")
    bus.publish(Topic.JOB_REQUESTS, b"elsewhere")
    assert sorted(texts(bus.pull("mine", 10) + bus.pull("mine", 10))) == ["early", "late"]
    assert texts(bus.pull("yours", 10)) == ["late"]
    with pytest.raises(ValueError, match="job-status"):
        bus.subscribe("yours", Topic.JOB_REQUESTS)


def test_messages_of_one_key_stay_in_order_when_the_first_is_redelivered(bus: Bus, backend: World) -> None:
    for text in ("a1", "b1", "a2", "b2", "a3"):
        publish(bus, text, text[0])
    delivered: list[str] = []
    refused = False
    for _ in range(20):
        received = bus.pull("mine", 10)
        if not refused and any(message.message == b"a1" for message in received):
            refused = True
            backend.pass_ack_deadline("mine", received)
            continue
        delivered += texts(received)
        bus.ack("mine", [message.ack_id for message in received])
        if len(set(delivered)) == 5:
            break
    assert refused
    assert [text for text in dict.fromkeys(delivered) if text[0] == "a"] == ["a1", "a2", "a3"]
    assert [text for text in dict.fromkeys(delivered) if text[0] == "b"] == ["b1", "b2"]


def test_no_message_of_thirty_concurrent_publishers_is_lost(bus: Bus) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(lambda number: publish(bus, str(number), f"key{number % 3}"), range(90)))
    delivered: set[str] = set()
    for _ in range(200):
        received = bus.pull("mine", 100)
        delivered |= set(texts(received))
        bus.ack("mine", [message.ack_id for message in received])
        if len(delivered) == 90:
            break
    assert delivered == {str(number) for number in range(90)}
