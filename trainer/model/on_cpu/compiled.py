"""The choice between loops compiled by numba and PyTorch's operations."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

import torch

# A compiled loop runs on one core, in about a quarter of the time that PyTorch's operations take on one core. With more
# threads than this, PyTorch is faster.
MOST_THREADS = 4


def loops_for(x: torch.Tensor) -> ModuleType | None:
    """Return `trainer.model.on_cpu.loops` if it is faster for x, else None.

    The loops handle bfloat16 only, the type that models are computed in where time matters: training a tiny model in
    float32 takes less time than numba takes to start. PyTorch is faster if this thread may use many cores.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.get_num_threads() > MOST_THREADS:
        return None
    return _loops()


@cache
def _loops() -> ModuleType | None:
    """Import the loops; None if numba is not installed, as on a GPU."""
    if importlib.util.find_spec("numba") is None:
        return None
    from trainer.model.on_cpu import loops

    return loops
