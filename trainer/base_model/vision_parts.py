"""The parts of a multimodal Gemma that are not its language model: what it sees and hears with.

transformers loads such a checkpoint whole for text jobs too, so they are told apart there as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemtune.families import FAMILIES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NAMES = tuple(sorted({name for family in FAMILIES for name in family.multimodal_modules}))


def of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The modules of a causal language model that see or hear; none of a model for text only."""
    return [part for name, part in model.get_submodule("model").named_children() if name in NAMES]
