"""Values of JSON as Python prints them.

Rows that Python programs put together with `str()` have definitions of tools and calls in this shape, which is JSON's
with other words for its values. Nothing is evaluated: the syntax tree is read, and anything else in it is refused.
"""

from __future__ import annotations

import ast
import math
from typing import Any

from gemtune.untrusted import LONE_SURROGATE, MAX_DEPTH

# Limit in bytes. Python's parser needs about a hundred times the memory of its text.
MAX_BYTES = 128 * 1024


class NotALiteral(Exception):
    """Raised for a text that Python would not print for a value of JSON."""


def read_literal(text: str) -> Any:
    """Return the value that Python prints as this text. Raises NotALiteral."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise NotALiteral(f"longer than {MAX_BYTES} bytes")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NotALiteral("not Python's syntax") from None
    return _value(tree.body, 0)


def _value(node: ast.expr, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise NotALiteral("nested too deeply")
    match node:
        case ast.Dict(keys=keys, values=values):
            names = [_value(key, depth + 1) if key is not None else None for key in keys]
            if not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
                raise NotALiteral("a key that is no text, or is there twice")
            return dict(zip(names, (_value(value, depth + 1) for value in values), strict=True))
        case ast.List(elts=elements):
            return [_value(element, depth + 1) for element in elements]
        case ast.Constant(value=str(text)) if not LONE_SURROGATE.search(text):
            return text
        case ast.Constant(value=bool() | None as constant):
            return constant
        case ast.Constant(value=int() | float() as number) if math.isfinite(number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if not isinstance(
            number, bool
        ) and math.isfinite(number):
            return -number
    raise NotALiteral("not a value of JSON")
