"""How the threads of a process wait for each other at the end of an operation that they share.

GNU's OpenMP, which PyTorch computes by, has them spin some hundred thousand times before they sleep. A core that is
theirs alone has nothing better to do; but where another process computes too, they keep from its core the very thread
that they wait for, at every operation: of a tiny model, some operations took 20 times as long on two cores
(`bench.beside`). Spinning a thousand times costs nothing that could be measured on a machine of their own.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# GNU's OpenMP takes 100 to 1,000 itself where it knows that there are more threads than cores.
SPINS = "1000"


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """For this process, before it imports torch, and for those that it starts. Who set it already is listened to."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
