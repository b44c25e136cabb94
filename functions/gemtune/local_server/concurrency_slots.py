"""Whose turn it is, where only some may do a thing at once: whoever came first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_SECONDS = 0.1


class ConcurrencySlots:
    """For so many at once."""

    def __init__(self, count: int):
        self._free = count
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def acquire(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for a turn, and have it. `check` is asked again and again and raises to give up waiting."""
        me = object()
        with self._changed:
            self._waiting.append(me)
        try:
            while not self._is_mine(me):
                check()
        except BaseException:
            with self._changed:
                self._waiting.remove(me)
                self._changed.notify_all()
            raise
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def occupy(self) -> Iterator[None]:
        """What goes on already has a turn, even if it is one too many."""
        with self._changed:
            self._free -= 1
        try:
            yield
        finally:
            self._give_back()

    def _is_mine(self, me: object) -> bool:
        """Whether it is, within LOOK_SECONDS; then it is taken."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] is me, LOOK_SECONDS):
                return False
            self._waiting.popleft()
            self._free -= 1
            self._changed.notify_all()
            return True

    def _give_back(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()
