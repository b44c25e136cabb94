"""Loading a model without sympy, with which torch reasons about shapes that are not known yet.

transformers makes a model on torch's meta device first, where tensors have shapes and no values. Some operations there
are Python functions that import sympy, also for shapes which are plain numbers: a third of a second, and 40 MB for as
long as the process lives. None of the three that loading a Gemma calls is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch


@contextmanager
def shapes_without_symbols() -> Iterator[None]:
    """For one `from_pretrained`; what is loaded is the same to the bit."""
    with ExitStack() as changed:
        for layer in (torch.nn.Linear, torch.nn.Embedding):
            changed.enter_context(patch.object(layer, "reset_parameters", _unless_on_meta(layer.reset_parameters)))
        changed.enter_context(patch.object(torch, "arange", _on_cpu(torch.arange)))
        changed.enter_context(patch.object(torch, "empty_like", _of_plain_shape(torch.empty_like)))
        yield


def _unless_on_meta(reset_parameters: Callable[[Any], None]) -> Callable[[Any], None]:
    """There are no values to draw."""

    def reset(layer: Any) -> None:
        if not layer.weight.is_meta:
            reset_parameters(layer)

    return reset


def _on_cpu(arange: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The few numbers that rotary positions begin with; transformers computes them anew when the weights are there."""

    def numbers(*bounds: Any, device: Any = None, **more: Any) -> torch.Tensor:
        return arange(*bounds, device=device or "cpu", **more)

    return numbers


def _of_plain_shape(empty_like: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def empty(like: torch.Tensor, *, dtype: Any = None, device: Any = None, **more: Any) -> torch.Tensor:
        if not like.is_meta or more:
            return empty_like(like, dtype=dtype, device=device, **more)
        return torch.empty(like.shape, dtype=dtype or like.dtype, device=device or like.device)

    return empty
