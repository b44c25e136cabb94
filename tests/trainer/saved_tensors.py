"""What forward passes leave for backward, counted tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def kept_bytes(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes of what `forward` leaves, the model's weights excepted; what several share counts once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    assert result is not None  # alive until here, and with it all that it keeps
    return sum(storage.nbytes() for storage in kept.values())
