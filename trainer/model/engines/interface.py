"""The interface of an engine: everything that differs between providers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from gemtune.request.spec import Spec
    from trainer.base_model.language_model import LanguageModel
    from trainer.new_tokens.embedding import NewTokens


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to train.

    Weights that are not trained are frozen. compute_dtype: the type of its matrix products; trained weights may be
    wider (those of an adapter, or all of them in full fine-tuning).
    """

    model: LanguageModel
    compute_dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Weights that training starts from, besides those of a base model.

    adapter: PEFT's folder of the adapter to train on; None for a new one. base_name: name of the base model for the
    adapter's files; None: as the request names it. base_dtype: type that the base model was published in, by its name
    in config.json; None: as it is stored. new_tokens: tokens to add to the base model; None: none.
    """

    adapter: Path | None = None
    base_name: str | None = None
    base_dtype: str | None = None
    new_tokens: NewTokens | None = None


BASE_MODEL = StartingPoint()


class Engine(Protocol):
    """A provider's way to load and save a model, implemented by a module."""

    def prepare(self, spec: Spec) -> None:
        """Prepare this process, before anything else imports transformers.

        Raises StepError if the machine lacks what the provider needs.
        """
        ...

    def load(self, folder: Path, spec: Spec, start: StartingPoint = BASE_MODEL) -> LoadedModel:
        """Load the base model of a folder, wrapped as the method requires.

        Raises StepError `bad_adapter` if the adapter to train on does not fit.
        """
        ...

    def save(self, model: LanguageModel, folder: Path) -> None:
        """Write the trained weights.

        Writes an adapter in PEFT's format, or all weights in that of transformers.
        """
        ...
