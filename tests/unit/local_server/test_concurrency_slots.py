"""Who waits longest goes first, and who gives up is in nobody's way."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gemtune.local_server.concurrency_slots import Turns


class Waiting(threading.Thread):
    """Waits for a turn, notes its name when it has it, and keeps it until it is told."""

    def __init__(self, turns: Turns, name: str, order: list[str]):
        super().__init__(daemon=True, name=name)
        self._turns, self._order = turns, order
        self.asks, self.has_it, self.may_end = threading.Event(), threading.Event(), threading.Event()
        self.given_up = False

    def run(self) -> None:
        try:
            with self._turns.next(self._check):
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
    def start(turns: Turns, name: str, order: list[str]) -> Waiting:
        made = Waiting(turns, name, order)
        made.start()
        assert made.asks.wait(60) or made.has_it.is_set()
        return made

    return start


def test_whoever_came_first_goes_first(waiting: Callable[..., Waiting]) -> None:
    turns, order = Turns(1), list[str]()
    with turns.next(lambda: None):
        all_of_them = [waiting(turns, f"{number:02}", order) for number in range(12)]
    for each in all_of_them:
        assert each.has_it.wait(60)
        assert order[-1] == each.name
        each.may_end.set()
    for each in all_of_them:
        each.join(60)
    assert order == [each.name for each in all_of_them]


def test_who_gives_up_is_in_nobodys_way(waiting: Callable[..., Waiting]) -> None:
    turns, order = Turns(1), list[str]()
    with turns.next(lambda: None):
        first, second = (waiting(turns, name, order) for name in ("first", "second"))
        first.given_up = True
        first.join(60)
        assert not first.is_alive()
    assert second.has_it.wait(60)
    second.may_end.set()
    second.join(60)
    assert order == ["second"]


def test_what_goes_on_already_counts(waiting: Callable[..., Waiting]) -> None:
    turns, order = Turns(1), list[str]()
    with turns.taken(), turns.taken():
        other = waiting(turns, "other", order)
    assert other.has_it.wait(60)
    with turns.taken():
        third = waiting(turns, "third", order)
        other.may_end.set()
        other.join(60)
        third.asks.clear()
        assert third.asks.wait(60)  # it looked once more, and may still not
        assert not third.has_it.is_set()
    assert third.has_it.wait(60)
    third.may_end.set()
    third.join(60)


def test_two_at_once(waiting: Callable[..., Waiting]) -> None:
    turns, order = Turns(2), list[str]()
    with turns.next(lambda: None), turns.next(lambda: None):
        third = waiting(turns, "third", order)
        assert order == []
    assert third.has_it.wait(60)
    third.may_end.set()
    third.join(60)
