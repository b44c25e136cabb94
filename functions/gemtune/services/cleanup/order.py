"""Order in which sweeps look at things, another one at each sweep.

So what takes long or fails does not keep the same things from being looked at each time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")

# Seconds between two sweeps on Google Cloud, and secrets or deleted jobs that each of them looks at.
SWEEP_SECONDS, CHECKED_PER_SWEEP = 180, 200


def shuffled(names: Iterable[str], now: datetime) -> list[str]:
    """Return the names in another order at each sweep."""
    names = sorted(names)
    random.Random(_sweep_number(now)).shuffle(names)
    return names


def rotated(things: Sequence[T], now: datetime) -> Sequence[T]:
    """Return things in their order, from another one on at each sweep."""
    first = _sweep_number(now) % len(things)
    return [*things[first:], *things[:first]]


def part_of(names: Sequence[str], now: datetime) -> list[str]:
    """Return about CHECKED_PER_SWEEP of the names, another part at each sweep."""
    parts = -(-len(names) // CHECKED_PER_SWEEP) or 1
    part = _sweep_number(now) % parts
    return [name for name in names if crc32(name.encode()) % parts == part]


def _sweep_number(now: datetime) -> int:
    return (now - datetime.fromtimestamp(0, UTC)) // timedelta(seconds=SWEEP_SECONDS)
