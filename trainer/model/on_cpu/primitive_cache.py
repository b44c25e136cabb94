"""How much of the code that oneDNN writes is kept.

It writes code for every shape of a product that it has not met, up to a megabyte of it, and keeps it for the last 1,024
shapes, as PyTorch does once more. Rows of many lengths have new shapes at every train_step, and code that is kept lies
in the heap between tensors that are not, so that their room cannot be used for larger ones. Of Gemma 3 270M on two
cores, 36 train_steps with 8 rows of 120 to 360 tokens take 3.3 GB with 1,024 shapes, 2.2 GB with 128 at the same speed,
and 2.0 GB with 64 at 0.96 of it, since a train_step has some 150 itself.
"""

from __future__ import annotations

import os

# Shapes for each core, which has rows of its own; and for all of them at least.
EACH, LEAST = 64, 128
_LIMITS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def keep_less_code(threads: int) -> None:
    """For this process, before its first product: later both are not looked at. Who set them already is listened to."""
    for name in _LIMITS:
        os.environ.setdefault(name, str(max(LEAST, EACH * threads)))
