"""JSON Schemas of users, validated fast and without network access.

Refused is what makes validators slow or access the network: references to other documents, recursion, keywords that
validate a value again for each level above it, and keywords that hand patterns to Python's own engine. `pattern` runs
in RE2, and `uniqueItems` compares hashes, where the library compares each pair of objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gemtune.request.matching import patterns

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_BYTES, MAX_DEPTH = 64 * 1024, 32
# Limit of the subschemas that a validation may have to look at. Those behind a `$ref` count at each
# place that has it.
MAX_PARTS = 5000
REFUSED = frozenset(
    {
        "$id",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$recursiveAnchor",
        "$vocabulary",
        "patternProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
# Keywords whose content is not counted: plain values, and definitions, which count where they are referred to.
UNSEEN = frozenset({"const", "enum", "default", "examples", "$defs", "definitions"})


def build_validator(schema: dict[str, Any]) -> Any:
    """Build a validator, whose `is_valid` checks a value against the schema.

    Raises ValueError, with a reason, for a schema that is invalid or not supported.
    """
    import jsonschema
    import referencing

    base = jsonschema.Draft202012Validator
    try:
        _check_form(schema)
        base.check_schema(schema)
        _count_subschemas(schema, schema, ())
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "its root"
        raise ValueError(f"at {where[:100]}: {error.message[:200]}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    # The registry is empty, because the library's own would fetch a `$ref` from the network.
    keywords = {"pattern": _pattern, "uniqueItems": _unique_items}
    return jsonschema.validators.extend(base, keywords)(schema, registry=referencing.Registry())


def _check_form(schema: dict[str, Any]) -> None:
    """Raise ValueError for a schema that is too long, or not of the dialect."""
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except ValueError:
        raise ValueError("it has a number that is not finite") from None
    if size > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    if str(schema.get("$schema", DIALECT)).rstrip("#") != DIALECT:
        raise ValueError(f"its $schema is not {DIALECT}")


def _count_subschemas(schema: dict[str, Any], part: Any, open_refs: tuple[str, ...], depth: int = 0) -> int:
    """Count the subschemas of a part that a validation may have to look at.

    schema: the whole schema. open_refs: references that lead to this part, to find recursion.
    Raises ValueError for what is not supported.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(part, list):
        return sum(_count_subschemas(schema, each, open_refs, depth + 1) for each in part)
    if not isinstance(part, dict):
        return 0
    count = 1
    for keyword, value in part.items():
        count += _count_in_keyword(schema, keyword, value, open_refs, depth + 1)
        if count > MAX_PARTS:
            raise ValueError(f"it has more than {MAX_PARTS} parts, if each $ref counts in full")
    return count


def _count_in_keyword(schema: dict[str, Any], keyword: str, value: Any, open_refs: tuple[str, ...], depth: int) -> int:
    """Count the subschemas in the value of a keyword.

    Raises ValueError for what is not supported.
    """
    if keyword in REFUSED:
        raise ValueError(f"{keyword} is not supported")
    if keyword in UNSEEN:
        return 0
    if keyword == "$ref":
        return _count_subschemas(schema, _target(schema, value, open_refs), (*open_refs, value), depth)
    if keyword == "pattern":
        patterns.compile_pattern(value)
    if keyword in ("properties", "dependentSchemas"):  # their keys are names of the user, not keywords
        return sum(_count_subschemas(schema, each, open_refs, depth) for each in value.values())
    return _count_subschemas(schema, value, open_refs, depth)


def _target(schema: dict[str, Any], ref: Any, open_refs: tuple[str, ...]) -> Any:
    """Return the part of the schema that a `$ref` refers to.

    Raises ValueError.
    """
    if not isinstance(ref, str) or not ref.startswith("#/"):
        raise ValueError("a $ref has to refer to #/… in the same schema")
    if ref in open_refs:
        raise ValueError(f"{ref[:100]} refers to itself")
    part: Any = schema
    for name in ref[2:].split("/"):
        key = name.replace("~1", "/").replace("~0", "~")
        if not isinstance(part, dict) or key not in part:
            raise ValueError(f"{ref[:100]} refers to nothing")
        part = part[key]
    return part


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    """Validate the keyword `pattern` with RE2.

    The library sets the parameters.
    """
    import jsonschema

    if isinstance(value, str) and not patterns.compile_pattern(pattern).search(value):
        yield jsonschema.ValidationError("a text does not match its pattern")


def _unique_items(validator: Any, is_required: bool, value: Any, schema: Any) -> Iterator[Any]:
    """Validate the keyword `uniqueItems` in linear time.

    The library sets the parameters.
    """
    import jsonschema

    if is_required and isinstance(value, list) and len(set(map(_identity, value))) < len(value):
        yield jsonschema.ValidationError("a list has the same item twice")


def _identity(value: Any) -> Any:
    """Return a hashable value, equal for what JSON Schema calls equal.

    1 equals 1.0, but neither equals true.
    """
    match value:
        case list():
            return tuple(map(_identity, value))
        case dict():
            return frozenset((name, _identity(each)) for name, each in value.items())
        case bool():
            return bool, value
    return value
