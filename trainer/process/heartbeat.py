"""Says every few seconds that an attempt lives, and ends the process when the attempt is nobody's any more."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from gemtune.errors import JobNotFound, Stale

log = logging.getLogger(__name__)

SECONDS = 5.0
# How long the main thread has to notice by itself, at the end of its train_step.
GRACE_SECONDS = 5.0


class Heartbeat:
    """A thread beside the step. `lost` is set when a newer attempt, another claim or an end took the job away."""

    def __init__(self, beat: Callable[[], None]):
        self._beat = beat
        self._ended = threading.Event()
        self.lost = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(SECONDS):
            try:
                self._beat()
            except (Stale, JobNotFound) as error:
                log.info("this attempt ends: %s", error)
                self.lost.set()
                if not self._ended.wait(GRACE_SECONDS):
                    # A train_step can take minutes. Nothing half-written counts, so leaving now harms nothing.
                    os._exit(0)
                return
            except Exception as error:
                log.warning("a heartbeat did not get through: %s", error)
