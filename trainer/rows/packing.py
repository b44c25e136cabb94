"""Which rows share a pack: fewer, fuller sequences for a GPU. No torch: prepare counts train_steps with it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def packs(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Rows by number, in packs of at most `limit` tokens: best fit, longest first (Johnson, Near-optimal bin packing
    algorithms, 1973), so at most 11/9 of the fewest packs there could be. The same lengths give the same packs.

    Every row is at most `limit` long. Packs stand in the order of their first rows.
    """
    found: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens still free, pack), in order
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect_left(room, (lengths[row], -1))
        if place == len(room):
            found.append([])
            free, pack = limit, len(found) - 1
        else:
            free, pack = room.pop(place)
        found[pack].append(row)
        insort(room, (free - lengths[row], pack))
    return sorted((sorted(pack) for pack in found), key=lambda pack: pack[0])
