"""Families: each generation of Gemma as data for service and trainer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gemtune.errors import Problem
from gemtune.families.gemma1 import GEMMA_1
from gemtune.families.gemma2 import GEMMA_2
from gemtune.families.gemma3 import GEMMA_3
from gemtune.families.gemma3n import GEMMA_3N
from gemtune.families.gemma4 import GEMMA_4
from gemtune.families.generation import Family, ModelType, TurnFormat, longest_part_in
from gemtune.families.size import ModelSize, field_over_limit
from gemtune.families.unsupported import BY_MODEL_TYPE, BY_NAME

FAMILIES: tuple[Family, ...] = (GEMMA_1, GEMMA_2, GEMMA_3, GEMMA_3N, GEMMA_4)

LOC = ("training_config", "base_model_id")
_GENERATION = re.compile(r"(?<![a-z0-9])gemma-(\d+(?:\.\d+)?)n?(?![a-z0-9.])")
_BY_MODEL_TYPE: Mapping[str, Family] = {kind: family for family in FAMILIES for kind in family.model_types}


def of_model_type(model_type: object) -> Family | None:
    """The family of a config.json's `model_type`; None for a model that is not trained here."""
    return _BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None


def of_config(config: Mapping[str, Any]) -> tuple[Family, ModelType] | None:
    """Family and model type of a config.json; None for a model that is not trained here."""
    family = of_model_type(config.get("model_type"))
    return None if family is None else (family, family.model_types[str(config["model_type"])])


def of_name(repository: str) -> Family | None:
    """The family that a repository's name says; None when the name says none."""
    return next((family for family in FAMILIES if family.is_named(repository)), None)


def turn_format_of(template: str) -> TurnFormat | None:
    """The turn format of Gemma that a chat template writes; None when it writes another one."""
    return next((family.turns for family in reversed(FAMILIES) if family.turns.start in template), None)


def size_by_name(repository: str) -> ModelSize | None:
    """The published size of a model of the Hub, if its name says which one it is."""
    sizes = {part: size for family in FAMILIES for part, size in family.sizes.items()}
    part = longest_part_in(tuple(sizes), repository)
    return None if part is None else sizes[part]


def problem_of_config(config: Mapping[str, Any]) -> Problem | None:
    """Why a model with this config.json cannot be trained here; None if it can."""
    kind = str(config.get("model_type"))[:40]
    if of_model_type(kind) is not None:
        field = field_over_limit(config)
        message = f"its config.json says of {field} more than any model has"
        return None if field is None else Problem(LOC, message, "bad_base_model", "save the model again")
    if kind in BY_MODEL_TYPE:
        return _not_supported(BY_MODEL_TYPE[kind])
    if kind.startswith("gemma"):
        return _not_supported(f"{kind} is a generation of Gemma that this version does not know")
    return Problem(LOC, f"it is a {kind} model, not a Gemma", "not_a_gemma", f"use {_list()}")


def problem_of_name(repository: str) -> Problem | None:
    """The same by a repository's name; None where the name says nothing, which prepare then learns from the config."""
    other = longest_part_in(tuple(BY_NAME), repository)
    if other is not None:
        return _not_supported(BY_NAME[other])
    match = _GENERATION.search(repository.rpartition("/")[2].lower())
    if match is None or of_name(repository) is not None:
        return None
    return _not_supported(f"Gemma {match[1]} is a generation that this version does not know")


def _not_supported(reason: str) -> Problem:
    return Problem(LOC, reason, "model_not_supported", f"use {_list()}")


def _list() -> str:
    return f"a model of {', '.join(family.name for family in FAMILIES)}"
