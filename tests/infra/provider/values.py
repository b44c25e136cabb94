"""Values as they travel between Terraform and a provider: MessagePack, by the schema of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack

Block = dict[str, Any]
# How Terraform writes a value that is known after apply only.
UNKNOWN = msgpack.ExtType(0, b"\x00")


def decoded(content: bytes) -> Any:
    return msgpack.unpackb(content, raw=False, strict_map_key=False) if content else None


def encoded(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def filled(block: Block, value: Any, make: Callable[[str, Any], Any]) -> Any:
    """The value with `make(name, type)` for every computed attribute that nobody set."""
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


def placeholder(name: str, kind: Any) -> Any:
    """What stands for a value that only Google knows."""
    if isinstance(kind, list):
        return {} if kind[0] == "map" else []
    plain: dict[Any, Any] = {"string": f"made-up-{name}", "number": 0, "bool": False}
    dynamic = [b'"string"', f"made-up-{name}"]  # comes with its type
    return plain.get(kind, dynamic)


def known(value: Any) -> Any:
    """The value with null for what is unknown."""
    if isinstance(value, msgpack.ExtType):
        return None
    if isinstance(value, dict):
        return {name: known(item) for name, item in value.items()}
    return [known(item) for item in value] if isinstance(value, list) else value


def problems(block: Block, value: dict[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, str]]:
    """What the provider refuses and Terraform itself does not: values of read-only attributes, and values that the
    documentation does not list. Each with its path."""
    for name, attribute in block["attributes"].items():
        given, here = value.get(name), (*path, name)
        read_only = not attribute.get("required") and not attribute.get("optional")
        if given is not None and read_only:
            yield here, f"{name} is read-only"
        if isinstance(given, str) and given and given not in attribute.get("values", [given]):
            yield here, f"{name} is {given!r}; use one of {', '.join(attribute['values'])}"
    for name, nested in block["blocks"].items():
        inner = value.get(name)
        for index, item in enumerate(inner if isinstance(inner, list) else [inner]):
            if isinstance(item, dict):
                step = (index,) if nested["nesting"] == "list" else ()
                yield from problems(nested["block"], item, (*path, name, *step))
