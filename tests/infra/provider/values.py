"""Values in the messages between Terraform and a provider.

They are MessagePack with the structure of a schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack

Block = dict[str, Any]
# Encoding of a value that is known only after apply.
UNKNOWN = msgpack.ExtType(0, b"\x00")


def decoded(content: bytes) -> Any:
    return msgpack.unpackb(content, raw=False, strict_map_key=False) if content else None


def encoded(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def filled(block: Block, value: Any, make: Callable[[str, Any], Any]) -> Any:
    """Return the value with `make(name, type)` for absent computed attributes."""
    if not isinstance(value, dict):
        return value
    whole = dict(value)
    for name, attribute in block["attributes"].items():
        if attribute.get("computed") and whole.get(name) is None:
            whole[name] = make(name, attribute["type"])
    for name, nested in block["blocks"].items():
        inner = whole.get(name)
        if isinstance(inner, list):
            whole[name] = [filled(nested["block"], item, make) for item in inner]
        else:
            whole[name] = filled(nested["block"], inner, make)
    return whole


def placeholder(name: str, kind: Any, of: str) -> Any:
    """Make up a value that only Google knows, another one for each resource."""
    if isinstance(kind, list):
        return {} if kind[0] == "map" else []
    plain: dict[Any, Any] = {"string": f"made-up-{name}-of-{of}", "number": 0, "bool": False}
    dynamic = [b'"string"', f"made-up-{name}-of-{of}"]  # encoded with its type
    return plain.get(kind, dynamic)


def without_unknown(value: Any) -> Any:
    """Return the value with null in place of unknown values."""
    if isinstance(value, msgpack.ExtType):
        return None
    if isinstance(value, dict):
        return {name: without_unknown(item) for name, item in value.items()}
    return [without_unknown(item) for item in value] if isinstance(value, list) else value


def problems(block: Block, value: dict[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, str]]:
    """Yield the path and message of each value that only the provider refuses.

    These are values of read-only attributes, and values that the documentation does not list.
    """
    for name, attribute in block["attributes"].items():
        attribute_value, attribute_path = value.get(name), (*path, name)
        read_only = not attribute.get("required") and not attribute.get("optional")
        if attribute_value is not None and read_only:
            yield attribute_path, f"{name} is read-only"
        allowed = attribute.get("values", [attribute_value])
        if isinstance(attribute_value, str) and attribute_value and attribute_value not in allowed:
            yield attribute_path, f"{name} is {attribute_value!r}; use one of {', '.join(attribute['values'])}"
    for name, nested in block["blocks"].items():
        inner = value.get(name)
        for index, item in enumerate(inner if isinstance(inner, list) else [inner]):
            if isinstance(item, dict):
                step = (index,) if nested["nesting"] == "list" else ()
                yield from problems(nested["block"], item, (*path, name, *step))
