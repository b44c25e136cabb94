"""Packing: rows share a sequence, so that a GPU runs fewer, fuller ones.

This module imports no torch, because prepare counts train_steps with it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def packs(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Return packs of row numbers, each of at most `limit` tokens.

    Packs are sorted by their first row. Best fit decreasing: at most 11/9 times the minimum number of packs, plus a
    constant (Johnson, "Near-Optimal Bin Packing Algorithms", 1973). Deterministic. lengths: tokens per row, none above
    `limit`.
    """
    filled: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, index in filled), sorted
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        best_fit = bisect_left(room, (lengths[row], -1))
        if best_fit == len(room):
            filled.append([])
            free, pack = limit, len(filled) - 1
        else:
            free, pack = room.pop(best_fit)
        filled[pack].append(row)
        insort(room, (free - lengths[row], pack))
    return sorted((sorted(pack) for pack in filled), key=lambda pack: pack[0])
