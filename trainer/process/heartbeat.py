"""The heartbeat of an attempt, which also ends a superseded one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from gemtune.errors import JobNotFound, Stale
from gemtune.jobs.steps import HEARTBEAT_SECONDS

log = logging.getLogger(__name__)

SECONDS = HEARTBEAT_SECONDS
# The main thread has this long to stop by itself, which it does after a train_step.
GRACE_SECONDS = 5.0


class Heartbeat:
    """A thread that records a heartbeat every few seconds.

    As a context manager it runs while the step does. `lost` is set once the attempt may not write any more: a newer
    attempt or another claim has the job, or the job is over. If the main thread does not stop then, the process exits.
    `pausing` is set while the job is to be paused.
    """

    def __init__(self, beat: Callable[[], bool]):
        """Call `beat` every few seconds.

        It returns whether the job is to be paused. It raises Stale or JobNotFound once the attempt may not write any
        more; other errors are logged only.
        """
        self._beat = beat
        self._ended = threading.Event()
        self.lost = threading.Event()
        self.pausing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the heartbeats.

        An attempt that is done would learn that it may not write any more, and end while it tidies up.
        """
        self._ended.set()

    def _run(self) -> None:
        """Beat until the context ends, or the attempt is superseded."""
        while not self._ended.wait(SECONDS):
            try:
                if self._beat():
                    self.pausing.set()
                else:
                    self.pausing.clear()
            except (Stale, JobNotFound) as error:
                log.info("this attempt ends: %s", error)
                self.lost.set()
                if not self._ended.wait(GRACE_SECONDS):
                    # A train_step can take minutes. Exiting now is safe, since incomplete files are ignored.
                    os._exit(0)
                return
            except Exception as error:
                log.warning("a heartbeat failed: %s", error)
