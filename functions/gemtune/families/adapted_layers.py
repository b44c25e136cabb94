"""Layers that a request names for an adapter, compared with the model."""

from __future__ import annotations

from collections.abc import Sequence

from gemtune.errors import Problem
from gemtune.families.generation import ATTENTION_LAYERS, LINEAR_LAYERS, Family
from gemtune.families.size import ModelSize


def problem_of(
    requested: Sequence[str] | None, family: Family, size: ModelSize | None, *, dora: bool
) -> Problem | None:
    """Return what is wrong with the layers that an adapter is to be on.

    requested: ends of their names; None for the usual ones. size: of the base model; None if it is not known. dora:
    whether the adapter is one of DoRA.
    """
    loc, possible = ("training_config", "target_modules"), family.adaptable_layers(size)
    hint = f"use some of {', '.join(possible)}"
    unknown = [name for name in requested or () if name not in possible and not _is_path(name, size)]
    if unknown:
        message = f"the language model has no layers {', '.join(unknown)} that an adapter can be on"
        return Problem(loc, message, "no_such_layer", hint)
    if requested is not None and len(set(requested)) < len(requested):
        return Problem(loc, "a layer is named twice", "no_such_layer", "name each one once")
    has_experts = size is not None and size.experts is not None
    on_experts = has_experts if requested is None else bool(set(requested) & set(family.experts))
    if dora and on_experts:
        message = "PEFT has no DoRA for experts"
        hint = "name the layers without experts as target_modules, or leave use_dora out"
        return Problem(("training_config", "use_dora"), message, "dora_on_experts", hint)
    return None


def _is_path(name: str, size: ModelSize | None) -> bool:
    """Return whether a name is the end of the path of a linear layer.

    Such as `mlp.down_proj` or `layers.3.self_attn.q_proj`. size: None if the number of layers is not known.
    """
    layers = f"layers.{name.partition('layers.')[2].partition('.')[0]}"
    number = layers.removeprefix("layers.")
    if number and not (number.isdecimal() and (size is None or int(number) < size.layers)):
        return False
    ends = [f"{'self_attn' if last in ATTENTION_LAYERS else 'mlp'}.{last}" for last in LINEAR_LAYERS]
    return any(f".model.language_model.{layers}.{end}".endswith(f".{name}") for end in ends) or any(
        f".model.{layers}.{end}".endswith(f".{name}") for end in ends
    )
