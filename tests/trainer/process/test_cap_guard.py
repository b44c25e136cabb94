"""The guard of an attempt that does not look whether its cap is reached."""

from __future__ import annotations

import threading

import pytest

from gemtune.errors import StaleAttempt
from trainer.process import cap_guard
from trainer.process.cap_guard import GRACE_SECONDS, CapGuard


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cap_guard, "POLL_SECONDS", 0.001)


class Attempt:
    """Attempt whose process would end when `ended` is set."""

    def __init__(self) -> None:
        self.over, self.looks, self.stops = -1.0, 0, 0
        self.ended, self.suspended, self.looked = threading.Event(), threading.Event(), threading.Event()
        self.error: Exception | None = None

    def seconds_over(self) -> float:
        self.looks += 1
        if self.looks > 5:
            self.looked.set()
        return self.over

    def stop(self) -> None:
        self.stops += 1
        if self.error is not None:
            raise self.error

    def guard(self) -> CapGuard:
        return CapGuard(
            self.seconds_over, self.stop, suspended=self.suspended, exit_process=lambda code: self.ended.set()
        )


def test_a_process_that_goes_on_after_its_cap_is_ended_when_the_grace_is_over() -> None:
    attempt = Attempt()
    attempt.over = GRACE_SECONDS - 0.1
    with attempt.guard():
        assert attempt.looked.wait(60)
        assert attempt.stops == 0
        attempt.over = GRACE_SECONDS
        assert attempt.ended.wait(60)
    assert attempt.stops == 1


def test_train_steps_are_not_ended() -> None:
    attempt = Attempt()
    attempt.over = 100.0
    attempt.suspended.set()
    with attempt.guard():
        assert attempt.looked.wait(60)
        assert attempt.stops == 0
        attempt.suspended.clear()
        assert attempt.ended.wait(60)


def test_an_attempt_that_may_not_write_any_more_is_left_to_the_heartbeat() -> None:
    attempt = Attempt()
    attempt.over, attempt.error = 100.0, StaleAttempt("replaced")
    with attempt.guard() as guard:
        guard._thread.join(60)
    assert (attempt.stops, attempt.ended.is_set()) == (1, False)


def test_a_stop_that_cannot_be_recorded_is_tried_again() -> None:
    attempt = Attempt()
    attempt.over, attempt.error = 100.0, ConnectionError("the network is away")
    with attempt.guard():
        assert attempt.looked.wait(60)
        assert not attempt.ended.is_set()
        attempt.error = None
        assert attempt.ended.wait(60)
