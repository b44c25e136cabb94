"""What a PEFT adapter adds to each weight of its base model, without loading either."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemtune.errors import StepError

if TYPE_CHECKING:
    import torch

# What PEFT can do to a weight beyond adding B·A to it, none of which gemtune trains.
NOT_MERGED = ("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "trainable_token_indices", "megatron_config")
_PARTS = re.compile(r"^base_model\.model\.(?P<module>.+?)\.(?P<part>lora_[AB])\.weight$")


@dataclass(frozen=True, slots=True)
class Lora:
    """The two factors of one module, by their names in the adapter's file, and what their product is multiplied by."""

    a: str
    b: str
    scale: float


class LoraWeights:
    """An adapter folder as PEFT saves it. Raises StepError `bad_adapter` for what cannot be merged."""

    def __init__(self, folder: Path):
        from safetensors import safe_open

        self._config = _config_of(folder)
        self._file = safe_open(folder / "adapter_model.safetensors", framework="pt")
        found: dict[str, dict[str, str]] = {}
        for name in sorted(self._file.keys()):
            match = _PARTS.match(name)
            if match is None:  # an embedding's factors, or a weight that was trained whole
                raise StepError("bad_adapter", f"the adapter's {name} cannot be merged", hint="export it as adapter")
            found.setdefault(match["module"], {})[match["part"]] = name
        self.modules = {self._place(module): self._lora(module, parts) for module, parts in found.items()}

    def merged(self, place: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight at a place with what was trained in it: in float32 where something is added, else as it is."""
        import torch

        lora = self.modules.get(place)
        if lora is None:
            return weight
        a, b = self._file.get_tensor(lora.a).float(), self._file.get_tensor(lora.b).float()
        delta = b @ a if weight.ndim == 2 else _of_experts(a, b, len(weight))
        if delta.shape != weight.shape:
            message = f"the adapter's {lora.b} makes {tuple(delta.shape)} of {place}, which is {tuple(weight.shape)}"
            raise StepError("bad_adapter", message, hint="merge into the base model that was trained")
        return torch.add(weight.float(), delta, alpha=lora.scale)

    def check_all_found(self, places: Iterable[str]) -> None:
        """Raises StepError `bad_adapter` when the base model lacks a weight that was trained."""
        missing = sorted(set(self.modules) - set(places))
        if missing:
            message = f"the base model has no weights for {len(missing)} modules of the adapter: {missing[0]}, …"
            raise StepError("bad_adapter", message, hint="merge into the base model that was trained")

    def _place(self, module: str) -> str:
        """The weight that a module's factors belong to. PEFT wraps a module once for each of its `target_parameters`,
        the first of them innermost, and names no parameter."""
        plain = module
        while plain.endswith(".base_layer"):
            plain = plain.removesuffix(".base_layer")
        depth = (len(module) - len(plain)) // len(".base_layer")
        inside = [each for each in self._config["target_parameters"] or () if f".{plain}".endswith(_module_of(each))]
        if not inside:
            return canonical_name(f"{module}.weight")
        if depth >= len(inside):
            raise StepError("bad_adapter", f"the adapter's {module} cannot be merged", hint="export it as adapter")
        return canonical_name(f"{plain}.{inside[len(inside) - 1 - depth].rpartition('.')[2]}")

    def _lora(self, module: str, parts: Mapping[str, str]) -> Lora:
        if set(parts) != {"lora_A", "lora_B"}:
            raise StepError("bad_adapter", f"the adapter has {', '.join(sorted(parts))} for {module}, and no pair")
        rank = _of_pattern(self._config["rank_pattern"], module, self._config["r"])
        alpha = _of_pattern(self._config["alpha_pattern"], module, self._config["lora_alpha"])
        scale = alpha / math.sqrt(rank) if self._config["use_rslora"] else alpha / rank
        return Lora(parts["lora_A"], parts["lora_B"], scale)


def _module_of(parameter: str) -> str:
    """`experts.gate_up_proj` -> `.experts`"""
    return f".{parameter.rpartition('.')[0]}"


def _of_experts(a: torch.Tensor, b: torch.Tensor, experts: int) -> torch.Tensor:
    """(experts · rank, in) and (out, rank · experts) -> (experts, out, in), as PEFT's ParamWrapper multiplies them."""
    import torch

    a = a.reshape(experts, -1, a.shape[1])
    b = b.reshape(b.shape[0], -1, experts)
    return torch.einsum("ore,eri->eoi", b, a)


def canonical_name(name: str) -> str:
    """What a weight's name says, whoever wrote it: checkpoints of models that see pictures put `language_model` and
    `model` in another order than the modules that they are loaded into, and have a `vision_model` more."""
    *path, last = name.removesuffix(".weight").split(".")
    return ".".join([part for part in path if part not in ("model", "language_model", "vision_model")] + [last])


def _config_of(folder: Path) -> dict[str, Any]:
    config = {"rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "bias": "none", "target_parameters": None}
    config |= json.loads((folder / "adapter_config.json").read_text())
    odd = [name for name in NOT_MERGED if config.get(name)]
    if config.get("peft_type") != "LORA" or config["bias"] != "none" or odd:
        message = f"this adapter cannot be merged: {', '.join(odd) or config.get('peft_type')}, bias {config['bias']}"
        raise StepError("bad_adapter", message, hint="export it as adapter")
    return config


def _of_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """As PEFT looks it up: the first key that the module's name ends with, as a regular expression."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)
