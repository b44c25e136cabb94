"""Standard library functions for expressions, and the predicates of `retry`.

Reference: https://cloud.google.com/workflows/docs/reference/stdlib/overview
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gemtune.local_server.workflow_engine.errors import language_error


@dataclass(frozen=True, slots=True)
class Function:
    """Function of the standard library.

    `arguments` are the allowed numbers of arguments. `call` gets the environment as an additional first argument.
    """

    arguments: tuple[int, ...]
    call: Callable[..., Any]


def _get_env(environment: Mapping[str, str], name: str, default: str | None = None) -> str:
    """Return an environment variable: `sys.get_env(name, default)`."""
    if name in environment:
        return environment[name]
    if default is None:
        raise language_error("KeyError", f"environment variable {name!r} is not set")
    return default


def _encode(environment: Mapping[str, str], value: Any) -> str:
    """Return a value as JSON: `json.encode_to_string(value)`."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        raise language_error("TypeError", "the value cannot be encoded as JSON") from None


def _string(environment: Mapping[str, str], value: Any) -> str:
    """Convert a number, boolean or string to a string: `string(value)`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | str):
        return str(value)
    raise language_error("TypeError", "string() needs a number, a boolean or a string")


def _length(environment: Mapping[str, str], value: Any) -> int:
    """Return the length of a string, list or map: `len(value)`."""
    if isinstance(value, str | list | dict):
        return len(value)
    raise language_error("TypeError", "len() needs a string, a list or a map")


def _default(environment: Mapping[str, str], value: Any, fallback: Any) -> Any:
    """Return a value, or a fallback for null: `default(value, fallback)`."""
    return fallback if value is None else value


def _get(environment: Mapping[str, str], value: Any, key: Any) -> Any:
    """Return an item of a map, or null: `map.get(value, key)`."""
    return value.get(key) if isinstance(value, dict) else None


FUNCTIONS: Mapping[str, Function] = {
    "sys.get_env": Function((1, 2), _get_env),
    "json.encode_to_string": Function((1,), _encode),
    "string": Function((1,), _string),
    "len": Function((1,), _length),
    "default": Function((2,), _default),
    "map.get": Function((2,), _get),
}


def _connection_failed(error: Mapping[str, Any]) -> bool:
    """Return whether an error has a tag of a failed or timed-out connection."""
    return bool({"ConnectionError", "ConnectionFailedError", "TimeoutError"} & set(error.get("tags", ())))


def default_retry_predicate(error: Mapping[str, Any]) -> bool:
    """Return whether to retry an idempotent call.

    True after connection errors, timeouts, and HTTP 429, 502, 503 and 504.
    """
    return _connection_failed(error) or error.get("code") in (429, 502, 503, 504)


def default_retry_predicate_non_idempotent(error: Mapping[str, Any]) -> bool:
    """Return whether to retry a call that must not happen twice.

    True if no connection was made, and after HTTP 429 and 503.
    """
    return "ConnectionFailedError" in error.get("tags", ()) or error.get("code") in (429, 503)


PREDICATES: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "http.default_retry_predicate": default_retry_predicate,
    "http.default_retry_predicate_non_idempotent": default_retry_predicate_non_idempotent,
}
