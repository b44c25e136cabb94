"""Waiting for SIGTERM or Ctrl-C without missing a signal."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Iterator[Callable[[], None]]:
    """Yield a function that waits for SIGTERM or SIGINT.

    It returns at once if the signal has already come. Use it in the main thread.

    A handler that sets an Event would not do. Python runs signal handlers between two instructions of the main thread,
    so a signal that arrives just before the thread sleeps, or that the system delivers to another thread, would not be
    noticed until something else wakes the main thread. The byte that `signal.set_wakeup_fd` makes Python write does
    not depend on the thread, and it stays in the socket until it is read.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        wakeup_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield lambda: _wait(reader)
        finally:
            signal.set_wakeup_fd(wakeup_fd)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _wait(reader: socket.socket) -> None:
    while reader.recv(1)[0] not in (signal.SIGTERM, signal.SIGINT):
        pass  # another signal with a handler, such as SIGCHLD
