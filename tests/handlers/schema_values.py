"""Hypothesis strategies for the values that a JSON schema allows.

They make requests from the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

Schema = Mapping[str, Any]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def values(schema: Schema, schemas: Mapping[str, Schema]) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a schema.

    schemas: those that the schema refers to by name.
    """
    if "$ref" in schema:
        return st.deferred(lambda: values(schemas[schema["$ref"].rpartition("/")[2]], schemas))
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return st.one_of([values(each, schemas) for each in schema[keyword]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "object":
            return _objects(schema, schemas)
        case "array":
            items = values(schema.get("items", {}), schemas)
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=min(schema.get("maxItems", 3), 3))
        case "string":
            return _texts(schema)
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            return _numbers(schema)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return ANYTHING


def _objects(schema: Schema, schemas: Mapping[str, Schema]) -> st.SearchStrategy[Any]:
    fields = {name: values(each, schemas) for name, each in schema.get("properties", {}).items()}
    required = {name: fields.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=fields)


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", 100)
    if "pattern" not in schema:
        return st.text(st.characters(exclude_categories=["Cs"]), min_size=shortest, max_size=longest)
    matching = st.from_regex(schema["pattern"], fullmatch=True)
    return matching.filter(lambda text: shortest <= len(text) <= longest)


def _numbers(schema: Schema) -> st.SearchStrategy[float]:
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    return st.floats(
        schema.get("minimum", above),
        schema.get("maximum", below),
        allow_nan=False,
        allow_infinity=False,
        exclude_min=above is not None,
        exclude_max=below is not None,
    )
