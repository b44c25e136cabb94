"""Records as a newer version would store them.

Every part of them has a field that this version does not know.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel

# The field that no version knows; its value names the class of the part.
LATER = "added_later"
_AT = datetime(2026, 11, 24, tzinfo=UTC).isoformat()
_VALUES: Mapping[type, Any] = {str: "x", int: 1, float: 1.5, bool: True, datetime: _AT, AwareDatetime: _AT}


def filled(model: type[BaseModel]) -> dict[str, Any]:
    """Return a stored record with a value for every field, and one more field.

    All parts of it have the further field as well.
    """
    fields = {field.alias or name: _value(field.annotation) for name, field in model.model_fields.items()}
    return {**fields, LATER: {"in": model.__name__}}


def merged(stored: Any, addition: Any) -> Any:
    """Return a stored value with what it lacks, part by part."""
    if isinstance(stored, Mapping) and isinstance(addition, Mapping):
        names = [*stored, *(name for name in addition if name not in stored)]
        return {name: merged(stored[name], addition.get(name)) if name in stored else addition[name] for name in names}
    return addition if addition is not None and stored in (None, (), []) else stored


def later_fields(stored: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the place of every part with the further field, and its class."""
    if isinstance(stored, Mapping):
        if LATER in stored:
            yield place, stored[LATER]["in"]
        for name, value in stored.items():
            yield from later_fields(value, f"{place}.{name}")
    elif isinstance(stored, list | tuple):
        for number, value in enumerate(stored):
            yield from later_fields(value, f"{place}.{number}")


def parts_of(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Return the classes of all parts of a record, with its own."""
    parts, waiting = set[type[BaseModel]](), [model]
    while waiting:
        each = waiting.pop()
        if each not in parts:
            parts.add(each)
            waiting += [part for field in each.model_fields.values() for part in _models_in(field.annotation)]
    return parts


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _value(annotation: Any) -> Any:
    """Return a value of a type as it is stored."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value(arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return _value(next(each for each in arguments if each is not type(None)))
    if origin is tuple:
        return [_value(arguments[0])]
    if arguments:  # a mapping
        return {_value(arguments[0]): _value(arguments[1])}
    if issubclass(annotation, BaseModel):
        return filled(annotation)
    return next(iter(annotation)).value if issubclass(annotation, Enum) else _VALUES[annotation]
