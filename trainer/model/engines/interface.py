"""The interface of an engine: all that differs between providers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from gemtune.request.spec import Spec
    from trainer.base_model.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to train: what shall not change is frozen. compute_dtype: what its products are made in; kept
    weights may have more bits (an adapter's, or all of them in a full fine-tuning)."""

    model: LanguageModel
    compute_dtype: torch.dtype


class Engine(Protocol):
    def prepare(self, spec: Spec) -> None:
        """Called before anything else imports transformers. Raises StepError when this machine lacks what the provider
        needs, before any work."""
        ...

    def load(self, folder: Path, spec: Spec) -> Loaded:
        """The base model of a folder, wrapped as the method says."""
        ...

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write what was trained: an adapter in PEFT's format, or all weights in transformers'."""
        ...
