"""Keywords of tools' JSON Schemas that a chat template does not show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Every template with tools shows these; marks in descriptions and values tell if it leaves out one of them.
SHOWN = frozenset(("type", "properties", "required", "description", "items", "enum"))
Tools = Sequence[Mapping[str, Any]]


class ToolSchemas:
    """Schemas of tools as a chat template shows them.

    render: writes definitions of tools.
    """

    def __init__(self, render: Callable[[Tools], str]):
        self._render = render
        self._known: dict[str, tuple[str, ...]] = {}

    def unread(self, tools: Tools) -> tuple[str, ...]:
        """Return keywords without which the template writes the same.

        Each is `tools.` and the keyword, such as additionalProperties. Raises what `render` raises.
        """
        keywords = {keyword for tool in tools for keyword in _keywords(tool["function"].get("parameters"))} - SHOWN
        if not keywords:
            return ()
        key = json.dumps(tools, sort_keys=True)
        if key not in self._known:
            text = self._render(tools)
            self._known[key] = tuple(
                f"tools.{keyword}"
                for keyword in sorted(keywords)
                if self._render([_without(tool, keyword) for tool in tools]) == text
            )
        return self._known[key]


def _without(tool: Mapping[str, Any], keyword: str) -> dict[str, Any]:
    function = dict(tool["function"])
    function["parameters"] = _schema_without(function.get("parameters"), keyword)
    return {**tool, "function": function}


def _schema_without(schema: Any, keyword: str) -> Any:
    """Return a schema without a keyword, also in the schemas inside of it."""
    if isinstance(schema, Mapping):
        return {
            name: {parameter: _schema_without(inner, keyword) for parameter, inner in value.items()}
            if name == "properties" and isinstance(value, Mapping)
            else _schema_without(value, keyword)
            for name, value in schema.items()
            if name != keyword
        }
    if isinstance(schema, list):
        return [_schema_without(inner, keyword) for inner in schema]
    return schema


def _keywords(schema: Any) -> set[str]:
    """Return the keywords of a schema and of those inside of it."""
    if isinstance(schema, list):
        return {keyword for inner in schema for keyword in _keywords(inner)}
    if not isinstance(schema, Mapping):
        return set()
    properties = schema.get("properties")
    inner = [value for name, value in schema.items() if name != "properties"]
    inner += list(properties.values()) if isinstance(properties, Mapping) else []
    return {str(name) for name in schema} | _keywords(inner)
