"""A limit on how long OpenMP's threads spin before they sleep.

At the end of a parallel operation, threads of GNU's OpenMP, which PyTorch uses, wait for each other and spin some
hundred thousand times before they sleep. With the core to themselves that costs nothing. But if another process
computes too, a spinning thread occupies the core of the very thread it waits for, at every operation: with a tiny
model, some operations took 20 times as long on two cores (`bench.contention`). Spinning a thousand times costs nothing
measurable on an otherwise idle machine.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# GNU's OpenMP itself uses 100 to 1,000 if it knows that there are more threads than cores.
SPINS = "1000"


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the limit for this process and its children.

    Call before importing torch. Settings that exist in the environment stay.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
