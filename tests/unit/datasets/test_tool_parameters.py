"""Parameters of tools by name, as xLAM has them."""

from __future__ import annotations

from typing import Any

import pytest

from gemtune.datasets.reading.tool_parameters import as_schema

CITY = {"type": "string", "description": "Where."}


def schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"city": CITY}, schema({"city": CITY}, "city")),
        ({"city": CITY | {"type": "str"}}, schema({"city": CITY}, "city")),
        ({"city": CITY | {"type": "str, optional"}}, schema({"city": CITY})),
        ({"city": CITY | {"type": "Optional[str]"}}, schema({"city": CITY})),
        ({"n": {"type": "int", "default": 3}}, schema({"n": {"type": "integer", "default": 3}})),
        ({"n": {"type": "List[float]"}}, schema({"n": {"type": "array", "items": {"type": "number"}}}, "n")),
        (
            {"n": {"type": "List[List[int]], optional"}},
            schema({"n": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}}),
        ),
        ({"n": {"type": "Union[int, float]"}}, schema({"n": {"type": "Union[int, float]"}}, "n")),
        (
            {"type": {"type": "str", "description": "A kind."}},
            schema({"type": {"type": "string", "description": "A kind."}}, "type"),
        ),
        ({"city": {"description": "Where."}}, schema({"city": {"description": "Where."}}, "city")),
    ],
)
def test_parameters_by_name_become_a_schema(parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    assert as_schema(parameters) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        schema({"city": CITY}, "city"),
        {"properties": {"type": {"type": "string"}}},
        {"$ref": "#/x"},
        {"anyOf": [{"type": "object"}]},
        {"additionalProperties": {"type": "string"}, "type": "object"},
    ],
)
def test_a_schema_stays_as_it_is(parameters: dict[str, Any]) -> None:
    assert as_schema(parameters) is parameters
