"""Concurrency slots: first come, first served, and safe to give up."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gemtune.local_server.concurrency_slots import ConcurrencySlots


class Waiting(threading.Thread):
    """Thread that waits for a slot, notes its name and holds the slot."""

    def __init__(self, slots: ConcurrencySlots, name: str, order: list[str]):
        super().__init__(daemon=True, name=name)
        self._slots, self._order = slots, order
        self.asks, self.has_it, self.may_end = threading.Event(), threading.Event(), threading.Event()
        self.given_up = False

    def run(self) -> None:
        try:
            with self._slots.acquire(self._check):
                self._order.append(self.name)
                self.has_it.set()
                assert self.may_end.wait(60)
        except InterruptedError:
            pass

    def _check(self) -> None:
        self.asks.set()
        if self.given_up:
            raise InterruptedError


@pytest.fixture
def waiting() -> Callable[..., Waiting]:
    def start(slots: ConcurrencySlots, name: str, order: list[str]) -> Waiting:
        thread = Waiting(slots, name, order)
        thread.start()
        assert thread.asks.wait(60) or thread.has_it.is_set()
        return thread

    return start


def test_slots_are_given_in_the_order_of_arrival(waiting: Callable[..., Waiting]) -> None:
    slots, order = ConcurrencySlots(1), list[str]()
    with slots.acquire(lambda: None):
        threads = [waiting(slots, f"{number:02}", order) for number in range(12)]
    for thread in threads:
        assert thread.has_it.wait(60)
        assert order[-1] == thread.name
        thread.may_end.set()
    for thread in threads:
        thread.join(60)
    assert order == [thread.name for thread in threads]


def test_a_thread_that_gives_up_does_not_block_the_next(waiting: Callable[..., Waiting]) -> None:
    slots, order = ConcurrencySlots(1), list[str]()
    with slots.acquire(lambda: None):
        first, second = (waiting(slots, name, order) for name in ("first", "second"))
        first.given_up = True
        first.join(60)
        assert not first.is_alive()
    assert second.has_it.wait(60)
    second.may_end.set()
    second.join(60)
    assert order == ["second"]


def test_slots_taken_without_waiting_count(waiting: Callable[..., Waiting]) -> None:
    slots, order = ConcurrencySlots(1), list[str]()
    with slots.occupy(), slots.occupy():
        other = waiting(slots, "other", order)
    assert other.has_it.wait(60)
    with slots.occupy():
        third = waiting(slots, "third", order)
        other.may_end.set()
        other.join(60)
        third.asks.clear()
        assert third.asks.wait(60)  # it has checked again, and still has no slot
        assert not third.has_it.is_set()
    assert third.has_it.wait(60)
    third.may_end.set()
    third.join(60)


def test_two_slots_are_held_at_once(waiting: Callable[..., Waiting]) -> None:
    slots, order = ConcurrencySlots(2), list[str]()
    with slots.acquire(lambda: None), slots.acquire(lambda: None):
        third = waiting(slots, "third", order)
        assert order == []
    assert third.has_it.wait(60)
    third.may_end.set()
    third.join(60)
