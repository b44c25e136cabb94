"""Salvage of a store's document that its model cannot read as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gemtune.untrusted.json_reader import read_json_object
from gemtune.untrusted.limits import MAX_MODEL_FILE_BYTES, Unreadable

Model = TypeVar("Model", bound=BaseModel)


def fields_of(body: str) -> dict[str, Any]:
    """Return the fields of a damaged document; none if it is no JSON object."""
    try:
        return read_json_object(body, max_bytes=MAX_MODEL_FILE_BYTES, repeated_keys=True, not_finite=True)
    except Unreadable:
        return {}


def readable(model: type[Model], stored: object) -> Model | None:
    """Return a part of a damaged document; None if it cannot be read."""
    try:
        return model.model_validate(stored)
    except ValidationError:
        return None


def readable_in(model: type[Model], stored: object) -> list[Model]:
    """Return the readable parts of a list; none if it is not one."""
    listed: Iterable[object] = stored if isinstance(stored, list) else ()
    parts = (readable(model, each) for each in listed)
    return [part for part in parts if part is not None]
