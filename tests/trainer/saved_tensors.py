"""Memory of the tensors that a forward pass saves for backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def saved_bytes(model: Any, forward: Callable[[], Any]) -> int:
    """Return the bytes of the tensors that `forward` saves for backward.

    The model's weights do not count, and storage shared by several tensors counts once.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    assert result is not None  # keeps the graph alive until here, and with it the saved tensors
    return sum(storage.nbytes() for storage in storages.values())
