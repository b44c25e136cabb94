"""The workstation's bus beyond the port: retries, dead letters, expiry, lease."""

from __future__ import annotations

import pytest

from gemtune.embedded.sqlite_bus import LeasedMessage, SqliteBus
from gemtune.ports import Topic
from tests.fakes import World


@pytest.fixture
def bus(world: World) -> SqliteBus:
    sqlite_bus = SqliteBus(world.services.database, clock=world.clock)
    sqlite_bus.subscribe("mine", Topic.JOB_STATUS)
    return sqlite_bus


def publish(bus: SqliteBus, text: str, key: str = "") -> str:
    return bus.publish(Topic.JOB_STATUS, text.encode(), attributes={"type": text}, ordering_key=key)


def texts(received: list[LeasedMessage]) -> list[str]:
    return [message.message.decode() for message in received]


def test_a_refused_message_waits_longer_each_time_and_becomes_a_dead_letter(bus: SqliteBus, world: World) -> None:
    publish(bus, "bad", "key")
    publish(bus, "good", "key")
    waits = []
    for _ in range(20):
        waited = 0
        while not (received := bus.lease(["mine"], 1, deadline=10)):
            world.clock.advance(seconds=0.5)
            waited += 1
        assert texts(received) == ["bad"]
        waits.append(waited / 2)
        bus.reject(received[0], "HTTP 500")
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 32, *[60] * 12]  # a quarter of an hour
    assert texts(bus.pull("mine", 10)) == ["good"]
    (dead,) = world.services.database.read().execute("SELECT * FROM dead_letters").fetchall()
    assert (dead["body"], dead["attempts"], dead["error"]) == (b"bad", 20, "HTTP 500")


def test_messages_that_wait_for_a_retry_are_due_when_the_clock_is_set_back(bus: SqliteBus, world: World) -> None:
    """Make them due, or they would wait for that hour in addition."""
    publish(bus, "refused", "a")
    publish(bus, "under way", "b")
    refused, _ = bus.lease(["mine"], 2, deadline=120)
    bus.reject(refused, "HTTP 500")
    publish(bus, "new", "c")
    world.clock.set_back(hours=1)
    assert texts(bus.lease(["mine"], 9, deadline=120)) == ["refused", "under way", "new"]
    assert bus.lease(["mine"], 9) == []  # their waits start over
    world.clock.advance(seconds=120)
    assert texts(bus.lease(["mine"], 9)) == ["refused", "under way", "new"]


@pytest.mark.parametrize(("seconds", "due"), [(0.5, []), (1.5, ["x"])])
def test_a_small_correction_of_the_clock_makes_nothing_due(
    bus: SqliteBus, world: World, seconds: float, due: list[str]
) -> None:
    publish(bus, "x")
    bus.lease(["mine"], 1, deadline=120)
    world.clock.set_back(seconds=seconds)
    assert texts(bus.lease(["mine"], 1)) == due


@pytest.mark.parametrize("minutes", [4, 9, 90])
def test_a_webhook_waits_at_most_twice_as_long_when_the_clock_is_set_back(
    bus: SqliteBus, world: World, minutes: int
) -> None:
    bus.publish(Topic.WEBHOOKS, b"x")
    for _ in range(9):  # up to the longest wait, ten minutes
        world.clock.advance(minutes=10)
        (delivery,) = bus.lease(["notify"], 1)
        bus.reject(delivery, "HTTP 500")
    world.clock.advance(minutes=5)
    world.clock.set_back(minutes=minutes)
    waited = 0
    while not bus.lease(["notify"], 1):
        world.clock.advance(seconds=10)
        waited += 10
    assert waited <= 600


def test_an_unread_message_is_kept_for_a_week(bus: SqliteBus, world: World) -> None:
    publish(bus, "old")
    world.clock.advance(seconds=1)
    publish(bus, "new")
    world.clock.advance(days=7, seconds=-1)
    bus.delete_expired()
    assert [row["body"] for row in world.services.database.read().execute("SELECT body FROM messages")] == [
        b"old",
        b"new",
    ]
    world.clock.advance(seconds=0.5)
    bus.delete_expired()
    assert texts(bus.pull("mine", 10)) == ["new"]


def test_a_dead_letter_is_kept_for_a_week(bus: SqliteBus, world: World) -> None:
    publish(bus, "bad")
    for _ in range(20):
        world.clock.advance(minutes=1)
        (delivery,) = bus.lease(["mine"], 1)
        bus.reject(delivery, "HTTP 500")
    dead = lambda: len(world.services.database.read().execute("SELECT * FROM dead_letters").fetchall())  # noqa: E731
    world.clock.advance(days=7)
    bus.delete_expired()
    assert dead() == 1
    world.clock.advance(seconds=1)
    bus.delete_expired()
    assert dead() == 0


@pytest.mark.parametrize(("pulled", "seconds"), [(False, 120), (True, 10)])
def test_a_message_is_leased_to_its_receiver_until_the_deadline(
    bus: SqliteBus, world: World, pulled: bool, seconds: int
) -> None:
    take = (lambda: bus.pull("mine", 1)) if pulled else (lambda: bus.lease(["mine"], 1))
    publish(bus, "x")
    assert len(take()) == 1
    world.clock.advance(seconds=seconds - 1)
    assert take() == []
    world.clock.advance(seconds=1)
    assert len(take()) == 1


def test_a_webhook_is_tried_fifty_times_in_seven_hours(bus: SqliteBus, world: World) -> None:
    bus.publish(Topic.WEBHOOKS, b"x")
    waits = []
    for _ in range(50):
        waited = 0
        while not (received := bus.lease(["notify"], 1)):
            world.clock.advance(seconds=5)
            waited += 5
        waits.append(waited)
        bus.reject(received[0], "HTTP 500")
    assert waits == [0, 5, 10, 20, 40, 80, 160, 320, *[600] * 42]
    assert len(world.services.database.read().execute("SELECT * FROM dead_letters").fetchall()) == 1


def test_after_a_restart_push_deliveries_are_due_at_once(bus: SqliteBus) -> None:
    bus.publish(Topic.JOB_REQUESTS, b"x")
    assert texts(bus.lease(["dispatch"], 1)) == ["x"]
    assert bus.lease(["dispatch"], 1) == []
    bus.release_leases()
    assert texts(bus.lease(["dispatch"], 1)) == ["x"]
