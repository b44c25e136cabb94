"""Families: the generations of Gemma as data, for service and trainer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gemtune.errors import Problem
from gemtune.families.configs import fields, shapes, vision_and_audio
from gemtune.families.configs.sections import language_model
from gemtune.families.gemma1 import GEMMA_1
from gemtune.families.gemma2 import GEMMA_2
from gemtune.families.gemma3 import GEMMA_3
from gemtune.families.gemma3n import GEMMA_3N
from gemtune.families.gemma4 import GEMMA_4
from gemtune.families.generation import Family, ModelType, TurnFormat, longest_part_in
from gemtune.families.size import ModelSize
from gemtune.families.unsupported import BY_END, BY_MODEL_TYPE, BY_NAME, BY_OWNER, UNQUANTIZED, reason_of_fields

FAMILIES: tuple[Family, ...] = (GEMMA_1, GEMMA_2, GEMMA_3, GEMMA_3N, GEMMA_4)

# The field of a request that problems with a base model refer to.
LOC = ("training_config", "base_model_id")
_GENERATION = re.compile(r"(?<![a-z0-9])gemma-(\d+(?:\.\d+)?n?)(?![a-z0-9.])")
_BY_MODEL_TYPE: Mapping[str, Family] = {kind: family for family in FAMILIES for kind in family.model_types}
_SIZES: Mapping[str, ModelSize] = {part: size for family in FAMILIES for part, size in family.sizes.items()}


def of_model_type(model_type: object) -> Family | None:
    """Return the family of a config.json's `model_type`.

    None if it is not supported.
    """
    return _BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None


def of_config(config: Mapping[str, Any]) -> tuple[Family, ModelType] | None:
    """Return family and model type of a config.json.

    None if the model type is not supported.
    """
    family = of_model_type(config.get("model_type"))
    return None if family is None else (family, family.model_types[str(config["model_type"])])


def experts_limit(config: Mapping[str, Any], targets: Collection[str] | None = None) -> str | None:
    """Return which programs do not load an adapter on experts like others.

    None if the adapter is on none. config: content of the model's config.json. targets: ends of the names of the layers
    that the adapter is on; None for the usual ones.
    """
    family = of_model_type(config.get("model_type"))
    if family is None or not has_experts(config):
        return None
    return family.experts_limit if targets is None or set(targets) & set(family.experts) else None


def has_experts(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json describes a mixture of experts."""
    family = of_model_type(config.get("model_type"))
    return family is not None and bool(family.experts) and bool(language_model(config).get("enable_moe_block"))


def has_values_of_keys(config: Mapping[str, Any]) -> bool:
    """Return whether global layers compute keys and values by one projection.

    It is k_proj. config: content of the model's config.json.
    """
    return bool(language_model(config).get("attention_k_eq_v"))


def of_name(repository: str) -> Family | None:
    """Return the family that a repository's name identifies, or None."""
    return next((family for family in FAMILIES if family.is_named(repository)), None)


def turn_format_of(template: str) -> TurnFormat | None:
    """Return the turn format that a chat template renders.

    None if it is not one of Gemma's.
    """
    with_tools = [turns for family in FAMILIES for turns in family.tool_turns]
    variants = [turns for turns in with_tools if turns.start in template and turns.hands_over in template]
    if variants:
        return variants[0]
    return next((family.turns for family in reversed(FAMILIES) if family.turns.start in template), None)


def size_by_name(repository: str) -> ModelSize | None:
    """Return the published size of a Hub model.

    None if its name does not identify one.
    """
    part = longest_part_in(tuple(_SIZES), repository)
    return None if part is None else _SIZES[part]


def problem_of_config(config: Mapping[str, Any]) -> Problem | None:
    """Return why a model with this config.json cannot be trained, if so.

    None if it can.
    """
    model_type = str(config.get("model_type"))[:40]
    family = of_model_type(model_type)
    if family is not None:
        if (reason := reason_of_fields(config)) is not None:
            return _not_supported(reason)
        text = _language_model(config, family, model_type)
        if (damage := next(_damage(config, text, family, model_type), None)) is not None:
            return Problem(LOC, damage, "bad_base_model", "correct its config.json, or save the model again")
        reason = next(shapes.uncomputed(text, model_type), None)
        return None if reason is None else _not_supported(reason)
    if model_type in BY_MODEL_TYPE:
        return _not_supported(BY_MODEL_TYPE[model_type])
    if model_type.startswith("gemma"):
        return _not_supported(f"{model_type} is a generation of Gemma that this version does not know")
    return Problem(LOC, f"it is a {model_type} model, not a Gemma", "not_a_gemma", f"use {_supported_families()}")


def _language_model(config: Mapping[str, Any], family: Family, model_type: str) -> Any:
    """Return the part of a config.json that describes the language model.

    An object in a config.json that is not damaged.
    """
    has_parts = f"{model_type}_text" in family.model_types or "text_config" in config
    return config.get("text_config") if has_parts else config


def _damage(config: Mapping[str, Any], text: object, family: Family, model_type: str) -> Iterator[str]:
    """Yield why transformers does not read a config.json, or not as one model.

    text: its part about the language model.
    """
    if (field := fields.field_over_limit(config)) is not None:
        yield f"the value of {field} in its config.json is larger than in any model"
    if not isinstance(text, Mapping):
        yield f"text_config is {fields.shown(text)} in its config.json, and describes no language model"
        return
    yield from fields.wrong_parts(config)
    yield from vision_and_audio.wrong_towers(config, None if family.pictures is None else family.pictures.tower_type)
    yield from fields.wrong_values(text, family.never_null)
    if isinstance(text.get("intermediate_size"), list) and not family.widths_by_layer:
        yield "its config.json has a list of intermediate_size, and models of its generation have one number"
    yield from shapes.overrides(text)
    if family.rotations_by_layer:
        yield from shapes.missing_rotations(text)
    yield from family.defaults.damage(text)
    yield from shapes.contradictions(family.defaults.completed(text), heads_divide_width=family.heads_divide_width)


def problem_of_name(repository: str) -> Problem | None:
    """Return why a model with this name cannot be trained, if so.

    Also None if the name does not tell: the prepare step then decides by the config.json.
    """
    other = longest_part_in((*BY_NAME, *UNQUANTIZED), repository)
    if other is not None and other in BY_NAME:
        return _not_supported(BY_NAME[other])
    owner, _, name = repository.lower().rpartition("/")
    if owner in BY_OWNER:
        return _not_supported(BY_OWNER[owner])
    if (end := next((end for end in BY_END if name.endswith(f"-{end}")), None)) is not None and "gemma" in name:
        return _not_supported(BY_END[end])
    match = _GENERATION.search(repository.rpartition("/")[2].lower())
    if match is None or of_name(repository) is not None:
        return None
    return _not_supported(f"Gemma {match[1]} is a generation that this version does not know")


def _not_supported(reason: str) -> Problem:
    """Return the problem of a model that is not supported."""
    return Problem(LOC, reason, "model_not_supported", f"use {_supported_families()}")


def _supported_families() -> str:
    """Name the supported families, as part of a hint."""
    return f"a model of {', '.join(family.name for family in FAMILIES)}"
