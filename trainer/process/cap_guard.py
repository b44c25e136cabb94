"""Guard that ends an attempt which does not notice that its cap is reached."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from gemtune.errors import JobNotFound, Stale

log = logging.getLogger(__name__)

# Seconds between two looks at the clock.
POLL_SECONDS = 1.0
# The main thread has this long to stop by itself, which it does wherever it looks for a reason to.
GRACE_SECONDS = 10.0


class CapGuard:
    """A thread that ends the process some seconds after a cap is reached.

    As a context manager it runs while the step does. It is for work that never looks at the clock, such as loading a
    model, and does nothing during the train_steps: training ends itself, at a checkpoint.
    """

    def __init__(
        self,
        seconds_over: Callable[[], float],
        record_stop: Callable[[], None],
        *,
        suspended: threading.Event,
        exit_process: Callable[[int], object] = os._exit,
    ):
        """Guard an attempt.

        seconds_over: returns the seconds since the cap was reached; negative before that. record_stop: records that the
        attempt stopped because of it; raises Stale or JobNotFound if the attempt may not write any more. suspended: set
        while the attempt ends by itself.
        """
        self._seconds_over, self._record_stop, self._exit = seconds_over, record_stop, exit_process
        self._suspended = suspended
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> CapGuard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        """Wait for the cap and the grace; then stop the attempt."""
        while not self._ended.wait(POLL_SECONDS):
            if self._seconds_over() < GRACE_SECONDS or self._suspended.is_set():
                continue
            try:
                self._record_stop()
            except (Stale, JobNotFound):
                return  # it has ended, or the heartbeat ends it
            except Exception as error:
                log.warning("the stop at the cap was not recorded: %s", error)
                continue
            log.info("the cap was reached %.0f s ago: the process ends", GRACE_SECONDS)
            self._exit(0)  # incomplete files are ignored
            return
