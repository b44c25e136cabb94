"""Engines: load, wrap and save a model, one module per provider."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from gemtune.request.training_config import Provider
    from trainer.model.engines.interface import Engine


def engine_of(provider: Provider) -> Engine:
    """Import the module of a provider, which implements Engine."""
    return cast("Engine", importlib.import_module(f"trainer.model.engines.{provider}"))
