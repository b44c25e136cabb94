"""Age of this process."""

from __future__ import annotations

import time

import psutil


def seconds_since_start() -> float:
    """Return the seconds since this process was started.

    A container's process starts with its instance. The difference of two times of the day is 0 if the clock was set
    back in between.
    """
    return max(0.0, time.time() - psutil.Process().create_time())
