"""Concurrency slots: a fair semaphore with cancelable waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CHECK_SECONDS = 0.1


class ConcurrencySlots:
    """Fair semaphore: at most `count` holders, first come, first served."""

    def __init__(self, count: int):
        self._free = count
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def acquire(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for a slot and hold it for the block.

        `check` is called every CHECK_SECONDS while waiting and gives up by raising.
        """
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
        try:
            while not self._try_acquire(ticket):
                check()
        except BaseException:
            with self._changed:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            raise
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def occupy(self) -> Iterator[None]:
        """Hold a slot for the block at once, even if none is free.

        For work that is already running, such as an adopted child.
        """
        with self._changed:
            self._free -= 1
        try:
            yield
        finally:
            self._release()

    def _try_acquire(self, ticket: object) -> bool:
        """Wait up to CHECK_SECONDS for a slot; return whether it was taken."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] is ticket, CHECK_SECONDS):
                return False
            self._waiting.popleft()
            self._free -= 1
            self._changed.notify_all()
            return True

    def _release(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()
