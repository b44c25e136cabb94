"""Tools: their definitions, and calls of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gemtune.datasets.conversation import ToolCall
from gemtune.datasets.reading.fields import Fields, unicode_text
from gemtune.datasets.reading.tool_parameters import as_schema
from gemtune.datasets.refusal import BadRow
from gemtune.untrusted import Unreadable, read_json


def read_tools(value: Any, fields: Fields, name: str = "tools") -> tuple[dict[str, Any], ...]:
    """Return definitions of tools in the shape that chat templates expect.

    value: a list, or a list as JSON text, of `{"type": "function", "function": {…}}` or of the inner objects alone,
    whose parameters are a JSON Schema, or by name as xLAM has them. fields: of the object that has the
    definitions, in its field `name`. Raises BadRow.
    """
    if value is None:
        return ()
    tools = from_json(value, fields, name)
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise fields.bad(f"{name} is not a list")
    return tuple(_tool(tool, fields, name, f"tool {number}") for number, tool in enumerate(tools, 1))


def _tool(tool: Any, fields: Fields, name: str, place: str) -> dict[str, Any]:
    """Return one definition. Raises BadRow."""
    outer = fields.within(tool, name, place)
    kind, inner = outer.take("type"), outer
    if "function" in outer:
        inner = outer.within(outer.take("function"), "function")
    if kind not in (None, "function", "custom") or (kind == "custom" and "input_schema" not in inner):
        raise outer.bad(f"a tool of the type {str(kind)[:40]!r}; only functions can be given to a model here")
    function: dict[str, Any] = {"name": name_of(inner), "description": inner.take_text("description") or ""}
    schema = inner.take_first("parameters", "input_schema")
    if schema is not None:
        schema = without_nulls(from_json(schema, inner, "parameters"))
        if not isinstance(schema, Mapping):
            raise inner.bad("parameters is not a JSON Schema")
        function["parameters"] = as_schema(schema)
    returned = inner.take_first("response", "return", "returns")
    if returned is not None:
        function["response"] = without_nulls(from_json(returned, inner, "response"))
    inner.close(harmless={"strict", "cache_control"})
    outer.close(harmless={"strict", "cache_control"})
    return {"type": "function", "function": function}


def read_calls(value: Any, fields: Fields, name: str = "tool_calls") -> tuple[ToolCall, ...]:
    """Return the calls in a field, a list or a list as JSON text.

    Each is `{"id", "type": "function", "function": {"name", "arguments"}}` or the inner object alone. Raises BadRow.
    """
    if value is None:
        return ()
    calls = from_json(value, fields, name)
    if isinstance(calls, Mapping):
        calls = [calls]
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise fields.bad(f"{name} is not a list of calls")
    return tuple(_call(fields.within(call, name, f"call {number}")) for number, call in enumerate(calls, 1))


def _call(outer: Fields) -> ToolCall:
    inner = outer
    kind = outer.take("type")
    if kind not in (None, "function", "tool_call"):
        raise outer.bad(f"a call of the type {str(kind)[:40]!r}; only functions can be called")
    call_id = outer.take_text("id")
    if "function" in outer:
        inner = outer.within(outer.take("function"), "function")
    arguments = inner.take_first("arguments", "args", "parameters", "input")
    call = ToolCall(name_of(inner), arguments_of(arguments, inner), call_id)
    inner.close(harmless={"index"})
    outer.close(harmless={"index"})
    return call


def name_of(fields: Fields) -> str:
    """Return the name of a function. Raises BadRow."""
    name = fields.take_text("name")
    if name is None or not name.strip():
        raise fields.bad("a function has no name")
    return name


def arguments_of(value: Any, fields: Fields) -> dict[str, Any]:
    """Return the arguments of a call by name. Raises BadRow.

    value: an object, or one as JSON text.
    """
    if value is None or value == "":
        return {}
    arguments = from_json(value, fields, "arguments")
    if not isinstance(value, str):
        arguments = without_nulls(arguments)
    if not isinstance(arguments, Mapping):
        raise fields.bad("the arguments of a call are not an object")
    return dict(arguments)


def from_json(value: Any, fields: Fields, name: str) -> Any:
    """Return the value of a JSON text, or any other value as it is.

    Raises BadRow.
    """
    if not isinstance(value, str):
        return _checked(value)
    try:
        return read_json(unicode_text(value), named=name, max_bytes=len(value.encode()))
    except Unreadable as error:
        raise fields.bad(f"{name} is a text that is not JSON: {error.message}") from None


def structured(value: Any) -> Any:
    """Return the object or the list of a JSON text.

    Any other value stays as it is. Files without objects and lists, such as CSV, have them as JSON text.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return read_json(unicode_text(value), max_bytes=len(value.encode()))
    except Unreadable:
        return value


def without_nulls(value: Any) -> Any:
    """Return a value without the fields of objects that are null.

    In Parquet, every object of a column has all fields that one of them has, with null where it has none.
    """
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [without_nulls(inner) for inner in value]
    return value


def _checked(value: Any) -> Any:
    """Return a value that JSON can express. Raises BadRow."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            unicode_text(str(name))
            _checked(inner)
    elif isinstance(value, str):
        unicode_text(value)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            _checked(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadRow(f"a number that is {value}, which JSON does not have: write a finite one, or null")
    elif value is not None and not isinstance(value, bool | int | float):
        raise BadRow(f"a value that JSON does not have ({type(value).__name__})")
    return value


def template_options(row: Fields) -> dict[str, Any]:
    """Return further variables of the chat template.

    They are in the column `chat_template_kwargs`, an object or one as JSON text, as TRL reads it; verl has a column
    `enable_thinking` of its own. Raises BadRow.
    """
    value = row.take("chat_template_kwargs")
    options = {} if value is None else without_nulls(from_json(value, row, "chat_template_kwargs"))
    if not isinstance(options, Mapping):
        raise row.bad("chat_template_kwargs is not an object")
    thinks = row.take("enable_thinking")
    if isinstance(thinks, str):  # a cell of CSV
        thinks = {"true": True, "false": False}.get(thinks.strip().casefold(), thinks)
    if thinks is not None and not isinstance(thinks, bool):
        raise row.bad("enable_thinking is neither true nor false")
    if thinks is not None and options.get("enable_thinking", thinks) is not thinks:
        raise row.bad("enable_thinking and chat_template_kwargs disagree")
    return dict(options) if thinks is None else {**options, "enable_thinking": thinks}
