"""Limits for the caches of code that oneDNN compiles per shape.

oneDNN compiles code for every new shape of a product, up to a megabyte per shape, and caches it for the last 1,024
shapes; PyTorch caches the same number again. Rows of many lengths bring new shapes at every train_step, and the cached
code is scattered over the heap between short-lived tensors, so their memory cannot be reused for larger tensors. With
Gemma 3 270M on two cores, 36 train_steps of 8 rows of 120 to 360 tokens take 3.3 GB with 1,024 shapes, 2.2 GB with 128
at the same speed, and 2.0 GB with 64 at 0.96 of the speed, since one train_step alone has some 150 shapes.
"""

from __future__ import annotations

import os

# Each core computes rows of its own, with shapes of their own. MIN_SHAPES is the lower bound for all cores together.
SHAPES_PER_CORE, MIN_SHAPES = 64, 128
_LIMITS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def limit_primitive_caches(threads: int) -> None:
    """Limit the caches of this process, unless the environment already does.

    Call before the first product; the limits are read once.
    """
    for name in _LIMITS:
        os.environ.setdefault(name, str(max(MIN_SHAPES, SHAPES_PER_CORE * threads)))
