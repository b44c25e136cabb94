"""Source of the current time."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Source of the current time; tests replace it with one they can set."""

    def now(self) -> datetime:
        """Return the current time, aware and in UTC. It can go backwards."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards, to measure durations.

        Values are comparable only within one process.
        """
        ...
