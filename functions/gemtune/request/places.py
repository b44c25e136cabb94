"""Locations of errors in a request, and the fields that are allowed there.

pydantic's locations have additional parts, called tags here: for a discriminated union, the tag of the model that the
object was validated as.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from gemtune.request.contract import Loc
from gemtune.request.rl_spec import DISCRIMINATORS


def without_tags(raw: Any, loc: Loc) -> Loc:
    """Return a pydantic location without its tags. Only rl_config has any.

    raw: the decoded request.
    """
    path: list[str | int] = []
    tag = None
    for part in loc:
        if part == tag:
            tag = None
            continue
        path.append(part)
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            raw = None
        has_tag = isinstance(raw, dict) and "rl_config" in path
        tag = next((raw[name] for name in DISCRIMINATORS if name in raw), None) if has_tag else None
    return tuple(path)


def fields_at(model: type[BaseModel], path: Loc) -> list[str]:
    """Return the fields that are allowed at a pydantic location.

    path: the location, including its tags.
    """
    models = [model]
    for part in path:
        fields = [each.model_fields[part] for each in models if part in each.model_fields]
        if fields:
            models = [inner for field in fields for inner in _models_in(field.annotation)]
        elif isinstance(part, str):  # a tag
            models = [each for each in models if _tag_of(each) == part]
    return [name for each in models for name in each.model_fields]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def _tag_of(model: type[BaseModel]) -> str | None:
    """Return the discriminator's value that selects a model.

    None if the model has no discriminator.
    """
    fields = [model.model_fields[name] for name in DISCRIMINATORS if name in model.model_fields]
    return next((field.annotation.__args__[0] for field in fields if field.annotation is not None), None)
