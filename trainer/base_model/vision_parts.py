"""The parts of a multimodal Gemma other than its language model.

These are vision and audio towers and their projectors. transformers loads them for text jobs too, so those also need to
tell them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemtune.families import FAMILIES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NAMES = tuple(sorted({name for family in FAMILIES for name in family.multimodal_modules}))
AUDIO_NAMES = frozenset(name for family in FAMILIES for name in family.audio_modules)


def modules_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """Return the vision and audio modules of a causal language model.

    Empty for a model for text only.
    """
    return [part for name, part in model.get_submodule("model").named_children() if name in NAMES]


def choose_trained(model: PreTrainedModel, *, vision: bool) -> None:
    """Choose which of the parts a training of all weights changes.

    vision: whether it changes the parts that see. The parts that hear stay as they are, since no row has a sound.
    """
    for name, part in model.get_submodule("model").named_children():
        if name in NAMES:
            part.requires_grad_(vision and name not in AUDIO_NAMES)
