"""JSON Schemas of users: checked so that validating with one is quick, and reaches out for nothing.

What makes validators slow or reach out is left out: schemas elsewhere, recursion, and keywords that validate a value
again for each level above it, or join patterns for Python's own engine. `pattern` runs in RE2, and `uniqueItems`
compares hashes, where the library compares each object of a list with all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gemtune.request.matching import patterns

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_BYTES, MAX_DEPTH = 64 * 1024, 32
# Subschemas, with those of each `$ref` counted wherever it stands: what a validation may have to look at.
MAX_PARTS = 5000
REFUSED = frozenset({
    "$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary",
    "patternProperties", "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
# Values, and what counts where it is referred to.
UNSEEN = frozenset({"const", "enum", "default", "examples", "$defs", "definitions"})


def build_validator(schema: dict[str, Any]) -> Any:
    """What tells by `is_valid` whether a value is as the schema says. Raises ValueError, with a reason, for a schema
    that is none, or that is not supported here."""
    import jsonschema
    import referencing

    base = jsonschema.Draft202012Validator
    try:
        _check_form(schema)
        base.check_schema(schema)
        _parts(schema, schema, ())
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path)) or "its root"
        raise ValueError(f"at {where[:100]}: {error.message[:200]}") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    # The registry is empty: the library's own would fetch a `$ref` from the network.
    own = {"pattern": _pattern, "uniqueItems": _unique_items}
    return jsonschema.validators.extend(base, own)(schema, registry=referencing.Registry())


def _check_form(schema: dict[str, Any]) -> None:
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except ValueError:
        raise ValueError("it holds a number that JSON does not know") from None
    if size > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    if str(schema.get("$schema", DIALECT)).rstrip("#") != DIALECT:
        raise ValueError(f"its $schema is not {DIALECT}")


def _parts(schema: dict[str, Any], part: Any, inside: tuple[str, ...], depth: int = 0) -> int:
    """How many subschemas a validation may have to look at. Raises ValueError for what is not supported."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
    if isinstance(part, list):
        return sum(_parts(schema, each, inside, depth + 1) for each in part)
    if not isinstance(part, dict):
        return 0
    count = 1
    for keyword, value in part.items():
        count += _parts_of_keyword(schema, keyword, value, inside, depth + 1)
        if count > MAX_PARTS:
            raise ValueError(f"it has more than {MAX_PARTS} parts, each $ref counted in full")
    return count


def _parts_of_keyword(schema: dict[str, Any], keyword: str, value: Any, inside: tuple[str, ...], depth: int) -> int:
    if keyword in REFUSED:
        raise ValueError(f"{keyword} is not supported")
    if keyword in UNSEEN:
        return 0
    if keyword == "$ref":
        return _parts(schema, _target(schema, value, inside), (*inside, value), depth)
    if keyword == "pattern":
        patterns.compile_pattern(value)
    if keyword in ("properties", "dependentSchemas"):  # its names are the user's, not keywords
        return sum(_parts(schema, each, inside, depth) for each in value.values())
    return _parts(schema, value, inside, depth)


def _target(schema: dict[str, Any], ref: Any, inside: tuple[str, ...]) -> Any:
    """What a `$ref` refers to."""
    if not isinstance(ref, str) or not ref.startswith("#/"):
        raise ValueError("a $ref refers to #/… of the same schema only")
    if ref in inside:
        raise ValueError(f"{ref[:100]} refers to itself")
    found: Any = schema
    for name in ref[2:].split("/"):
        key = name.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            raise ValueError(f"{ref[:100]} refers to nothing")
        found = found[key]
    return found


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    import jsonschema

    if isinstance(value, str) and not patterns.compile_pattern(pattern).search(value):
        yield jsonschema.ValidationError("a text does not match its pattern")


def _unique_items(validator: Any, wanted: bool, value: Any, schema: Any) -> Iterator[Any]:
    import jsonschema

    if wanted and isinstance(value, list) and len(set(map(_identity, value))) < len(value):
        yield jsonschema.ValidationError("an item of a list stands twice")


def _identity(value: Any) -> Any:
    """The same for what JSON Schema calls equal: 1 is 1.0, and neither is true."""
    match value:
        case list():
            return tuple(map(_identity, value))
        case dict():
            return frozenset((name, _identity(each)) for name, each in value.items())
        case bool():
            return bool, value
    return value
