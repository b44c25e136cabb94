"""LoRA updates added to the outputs of a loaded model's layers, without PEFT.

PEFT imports bitsandbytes and torch's compiler wherever they are installed, which takes longer than loading a small
model. Most adapters only add scale · B·A to linear layers, which a hook on each of these layers does in the same
operations and types as PEFT. For all others `add` returns None, and PEFT has to load them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.export.lora_weights import LoraWeights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Options of an adapter that are for its training or its name only, or that are read here. All others have to be unset.
READ = {"alpha_pattern", "lora_alpha", "r", "rank_pattern", "target_modules", "use_rslora"}
WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
REQUIRED: Mapping[str, object] = {"peft_type": "LORA", "bias": "none", "init_lora_weights": True}
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


class AddedLora:
    """Updates of a model, which can be switched off."""

    def __init__(self) -> None:
        self._is_enabled = True

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Let the model compute without its updates within the block."""
        self._is_enabled = False
        try:
            yield
        finally:
            self._is_enabled = True

    def hook(self, a: torch.Tensor, b: torch.Tensor, scale: float) -> Callable[..., torch.Tensor | None]:
        """Return the forward hook of a linear layer.

        a: (rank, in). b: (out, rank). PEFT computes the update in the type of the factors, and rounds the sum to that
        of the layer's output.
        """
        from torch.nn.functional import linear

        def add_update(
            layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> torch.Tensor | None:
            if not self._is_enabled:
                return None
            (states,) = inputs
            return (output + linear(linear(states.to(a.dtype), a), b) * scale).to(output.dtype)

        return add_update


def add(model: PreTrainedModel, adapter: Path) -> AddedLora | None:
    """Add an adapter's updates to its base model; None if that takes PEFT.

    PEFT also explains why an adapter does not fit. The factors are in float32, in which PEFT computes with them.
    """
    config = json.loads((adapter / CONFIG).read_text())
    layers = _layers(model, config.get("target_modules")) if _is_plain(config) else None
    if layers is None or not _has_exactly(adapter / WEIGHTS, layers):
        return None
    weights, lora = LoraWeights(adapter), AddedLora()
    hooks = {}
    for names in weights.modules.values():
        path = names.a.removeprefix(PREFIX).removesuffix(A)
        weight = layers[path].weight
        a, b = (factor.to(weight.device) for factor in weights.factors(names))
        if (len(b), a.shape[1]) != tuple(weight.shape):
            return None
        hooks[path] = lora.hook(a, b, names.scale)
    for path, hook in hooks.items():
        layers[path].register_forward_hook(hook)
    return lora


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Return whether an adapter's options say nothing but scale · B·A."""
    if any(config.get(name, value) != value for name, value in REQUIRED.items()):
        return False
    return not any(value for name, value in config.items() if name not in READ | WITHOUT_EFFECT | REQUIRED.keys())


def _layers(model: PreTrainedModel, targets: str | Collection[str] | None) -> dict[str, torch.nn.Linear] | None:
    """Return the layers that PEFT would adapt, by path.

    None if one of them is no plain linear layer, or if there is none. targets: a pattern of paths, or ends of them.
    """
    from torch.nn import Linear

    if targets is None:
        return None
    matches = re.compile(targets if isinstance(targets, str) else rf"(.*\.)?({'|'.join(map(re.escape, targets))})")
    layers = {path: layer for path, layer in model.named_modules() if matches.fullmatch(path)}
    plain = {path: layer for path, layer in layers.items() if type(layer) is Linear}
    return plain if 0 < len(plain) == len(layers) else None


def _has_exactly(file: Path, layers: Collection[str]) -> bool:
    """Return whether a file has the factors of some layers and nothing else."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return set(weights.keys()) == {f"{PREFIX}{path}{factor}" for path in layers for factor in (A, B)}
