"""Where in a request something is wrong, and what could stand there instead.

pydantic's places have more parts than the request: of several models that an object could be, the one it was taken for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from gemtune.request.contract import Loc
from gemtune.request.rl_spec import DISCRIMINATORS


def without_tags(raw: Any, loc: Loc) -> Loc:
    """The place as the request has it; only rl_config has objects of several models."""
    kept: list[str | int] = []
    tag = None
    for part in loc:
        if part == tag:
            tag = None
            continue
        kept.append(part)
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            raw = None
        told = isinstance(raw, dict) and "rl_config" in kept
        tag = next((raw[name] for name in DISCRIMINATORS if name in raw), None) if told else None
    return tuple(kept)


def fields_at(model: type[BaseModel], path: Loc) -> list[str]:
    """The fields there can be at a place of pydantic's, tags included."""
    models = [model]
    for part in path:
        fields = [each.model_fields[part] for each in models if part in each.model_fields]
        if fields:
            models = [inner for field in fields for inner in _models_in(field.annotation)]
        elif isinstance(part, str):  # a tag
            models = [each for each in models if _tag_of(each) == part]
    return [name for each in models for name in each.model_fields]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def _tag_of(model: type[BaseModel]) -> str | None:
    fields = [model.model_fields[name] for name in DISCRIMINATORS if name in model.model_fields]
    return next((field.annotation.__args__[0] for field in fields if field.annotation is not None), None)
