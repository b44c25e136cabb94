"""The type of a language model, for annotations. Nothing is imported when it runs: transformers takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    # With an adapter or without. PEFT's wrapper passes on every attribute that it lacks to the model in it.
    LanguageModel: TypeAlias = PreTrainedModel | PeftModel


def is_wrapped(model: torch.nn.Module) -> TypeGuard[PeftModel]:
    """Tell PEFT's wrapper from a plain model, without an import of PEFT, which full fine-tuning does not need."""
    return hasattr(model, "get_base_model")


def unwrapped(model: torch.nn.Module) -> PreTrainedModel:
    """The language model in PEFT's wrapper, its layers adapted, or the one that it is itself."""
    return cast("PreTrainedModel", model.get_base_model() if is_wrapped(model) else model)
