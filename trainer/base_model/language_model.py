"""The type of a language model, for annotations.

Imports nothing at run time: importing transformers takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    # With or without an adapter. PEFT's wrapper forwards attributes that it lacks to the model inside.
    LanguageModel: TypeAlias = PreTrainedModel | PeftModel


def is_wrapped(model: torch.nn.Module) -> TypeGuard[PeftModel]:
    """Return whether a model is in PEFT's wrapper.

    Needs no import of PEFT, which full fine-tuning does without.
    """
    return hasattr(model, "get_base_model")


def unwrap(model: torch.nn.Module) -> PreTrainedModel:
    """Return the language model inside of PEFT's wrapper, or the model itself.

    Its layers stay adapted.
    """
    return cast("PreTrainedModel", model.get_base_model() if is_wrapped(model) else model)
