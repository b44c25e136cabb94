"""Parameters of tools that are no JSON Schema.

xLAM's definitions have names of parameters where a schema has keywords, and types as Python writes them:
`{"city": {"type": "str, optional", "description": "…"}}`. A chat template would show none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Python's names of types, in lower case, and those of JSON Schema.
_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
}
_OPTIONAL = re.compile(r"\s*,\s*optional\s*", re.IGNORECASE)
_INSIDE = re.compile(r"(?P<outer>list|set|sequence|optional)\[(?P<inner>[^,]*)\]", re.IGNORECASE)


def as_schema(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return parameters as a JSON Schema; a schema stays as it is.

    A parameter without a default, whose type does not say `optional`, is required. A type that a schema has no word
    for stays, since templates write any word.
    """
    if not parameters or "properties" in parameters or not all(map(_is_parameter, parameters.values())):
        return parameters
    read = {name: _property(value) for name, value in parameters.items()}
    required = [name for name, (_, is_required) in read.items() if is_required]
    schema: dict[str, Any] = {"type": "object", "properties": {name: value for name, (value, _) in read.items()}}
    return schema | {"required": required} if required else schema


def _is_parameter(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("type", ""), str)
        and {"type", "description"} & set(value) != set()
    )


def _property(value: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the schema of one parameter, and whether it is required."""
    named = value.get("type")
    if named is None:
        return dict(value), "default" not in value
    plain, optional = _OPTIONAL.sub("", named), _OPTIONAL.search(named) is not None
    optional = optional or plain.casefold().startswith("optional[")
    return {**value, **_typed(plain.strip())}, not optional and "default" not in value


def _typed(name: str) -> dict[str, Any]:
    """Return the keywords of a type that Python names."""
    inside = _INSIDE.fullmatch(name)
    if inside is None:
        return {"type": _TYPES.get(name.casefold(), name)}
    inner = _typed(inside["inner"].strip())
    return inner if inside["outer"].casefold() == "optional" else {"type": "array", "items": inner}
