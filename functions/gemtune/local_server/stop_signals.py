"""Waiting for SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[Callable[[], None]]:
    """Yields what returns once SIGTERM or SIGINT has come since the block began. For the main thread.

    Not `Event.wait` with a handler that sets the event: Python runs handlers between two instructions of the main
    thread, so a signal that comes just before it sleeps, or that the system gives to another thread, is not seen until
    something else wakes it. The byte that `signal.set_wakeup_fd` writes is there whoever got the signal, and stays.
    """
    told, tells = socket.socketpair()
    with told, tells:
        tells.setblocking(False)
        before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGTERM, signal.SIGINT)}
        wakeup = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
        try:
            yield lambda: _wait(told)
        finally:
            signal.set_wakeup_fd(wakeup)
            for name, handler in before.items():
                signal.signal(name, handler)


def _wait(told: socket.socket) -> None:
    while told.recv(1)[0] not in (signal.SIGTERM, signal.SIGINT):
        pass  # another signal that has a handler
