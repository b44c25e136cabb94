"""The parts of a multimodal Gemma that are not its language model: what it sees (and hears) with.

transformers loads such a checkpoint whole for text jobs too, so they are told apart there as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# As Gemma 3, 3n and 4 name them.
NAMES = ("vision_tower", "multi_modal_projector", "audio_tower", "embed_vision", "embed_audio")


def of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The modules of a causal language model that are senses; none of a model for text only."""
    return [part for name, part in model.get_submodule("model").named_children() if name in NAMES]


def linear_layers(model: PreTrainedModel, *, vision_tower: bool) -> str:
    """What PEFT shall adapt: its word for all linear layers, or for a model with senses a pattern that leaves those
    out, but for the vision tower if that is to be trained."""
    from torch.nn import Linear

    if not of(model):
        return "all-linear"
    parts = ("language_model", "vision_tower") if vision_tower else ("language_model",)
    paths = [name.split(".") for name, layer in model.named_modules() if isinstance(layer, Linear)]
    last_names = sorted({path[-1] for path in paths if set(path) & set(parts)})
    return rf"model\.({'|'.join(parts)})\..*\.({'|'.join(last_names)})"
