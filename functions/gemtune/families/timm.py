"""timm, with which transformers builds the vision tower of Gemma 3n."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from gemtune.errors import Problem
from gemtune.families.generation import Family

# timm itself imports torchvision.
PACKAGES = ("timm", "torchvision")
LOC = ("training_config", "base_model_id")


def is_installed() -> bool:
    """Return whether this Python can import the packages."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def problem_of(family: Family | None, config: Mapping[str, object] | None, *, has_timm: bool) -> Problem | None:
    """Return why a model cannot be built without the packages; None if it can.

    family: of the model, or None if it is not known. config: its config.json, or None if it is not at hand. has_timm:
    whether the packages are installed.
    """
    if has_timm or family is None or not family.needs_timm(config):
        return None
    message = f"transformers builds {family.name} with {' and '.join(PACKAGES)}, which are not installed here"
    return Problem(LOC, message, "timm_missing", "install them with `make timm`, or ask the operator of the service to")
