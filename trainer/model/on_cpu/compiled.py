"""Whether loops that numba compiles (`trainer.model.on_cpu.loops`) are used instead of PyTorch's operations."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

import torch

# A compiled loop runs on one core, in about a quarter of the time that PyTorch's operations take on one.
MOST_THREADS = 4


def loops_for(x: torch.Tensor) -> ModuleType | None:
    """`trainer.model.on_cpu.loops` where they are for values like x and faster than PyTorch's operations in this
    thread. They are for bfloat16, which is what a model is computed in where time matters; tiny ones of float32 would
    wait for numba longer than for their training."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.get_num_threads() > MOST_THREADS:
        return None
    return _loops()


@cache
def _loops() -> ModuleType | None:
    """None where numba is not installed, as on a GPU."""
    if importlib.util.find_spec("numba") is None:
        return None
    from trainer.model.on_cpu import loops

    return loops
