"""Choice of the layers that get a LoRA adapter.

They are the attention and MLP layers of the language model, the experts of a mixture, and on request the vision tower;
routers and per-layer inputs only if a request names them. `embeddings` is about the embedding and the head.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from gemtune.errors import StepError
from gemtune.families import of_model_type
from gemtune.families.generation import LINEAR_LAYERS
from trainer.base_model import vision_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def target_modules(
    model: PreTrainedModel, *, vision_tower: bool, requested: list[str] | None = None
) -> list[str] | str:
    """Return PEFT's `target_modules`: names of layers, or a pattern.

    A pattern is needed where vision or audio towers have layers of the same names. requested: ends of names, of layers
    in the language model; None for the linear layers of attention and MLP. Raises StepError `no_such_layer`.
    """
    names = list(LINEAR_LAYERS) if requested is None else _linear(model, requested)
    if not vision_parts.modules_of(model):
        return names
    language = rf"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LINEAR_LAYERS)})"
    if requested is not None:
        language = rf"model\.language_model\.(.*\.)?({'|'.join(map(re.escape, names))})"
    if not vision_tower:
        return language
    from torch.nn import Linear

    family = of_model_type(model.config.model_type)
    assert family is not None, "the step prepare refuses other models"
    tower = family.model_types[model.config.model_type].tower
    paths = [name.split(".") for name, layer in model.named_modules() if isinstance(layer, Linear)]
    last_names = sorted({path[-1] for path in paths if tower in path})
    return rf"({language}|model\.{tower}\.(.*\.)?({'|'.join(last_names)}))"


def _linear(model: PreTrainedModel, requested: list[str]) -> list[str]:
    """Return the requested names without those of experts.

    Raises StepError `no_such_layer` if the language model has no linear layer of a name.
    """
    from torch.nn import Linear

    family = of_model_type(model.config.model_type)
    names = [name for name in requested if family is None or name not in family.experts]
    towers = [f"model.{part}." for part in vision_parts.NAMES]
    paths = [
        f".{path}"
        for path, layer in model.named_modules()
        if isinstance(layer, Linear) and not path.startswith(tuple(towers))
    ]
    missing = [name for name in names if not any(path.endswith(f".{name}") for path in paths)]
    if missing:
        message = f"the language model has no layers {', '.join(missing)}"
        raise StepError("no_such_layer", message, hint="leave them out of target_modules")
    return names


def target_parameters(model: PreTrainedModel, requested: list[str] | None = None) -> list[str] | None:
    """Return PEFT's `target_parameters`: a mixture's experts, or None.

    requested: ends of names of layers; None for all experts.
    """
    family = of_model_type(model.config.model_type)
    if family is None:
        return None
    names = [name for name, _ in model.named_parameters()]
    return [
        expert
        for expert in family.experts
        if any(name.endswith(f".{expert}") for name in names) and (requested is None or expert in requested)
    ] or None


def adapter_dropout(requested: float, experts: list[str] | None) -> float:
    """Return the dropout of an adapter, which is 0 on a mixture of experts.

    PEFT adds an expert's LoRA update to its weights (`target_parameters`), which leaves no activation to drop. experts:
    from `target_parameters`.
    """
    if experts is not None and requested > 0:
        log.info("lora_dropout is 0 instead of %g: adapters on experts do not support dropout", requested)
        return 0.0
    return requested
