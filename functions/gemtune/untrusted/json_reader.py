"""Reader of untrusted JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from gemtune.untrusted.limits import (
    LONE_SURROGATE,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    Unreadable,
    lone_surrogate,
    too_deep,
)
from gemtune.untrusted.text import decode_text, first_repeated

FINITE = "use finite numbers, since JSON has no others"
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(
    content: bytes | str,
    *,
    named: str = "this",
    max_bytes: int = MAX_BYTES,
    repeated_keys: bool = False,
    not_finite: bool = False,
) -> Any:
    """Decode a JSON document.

    named: what the error message calls the document.
    max_bytes: limit of the document's size.
    repeated_keys: accept them, and use the last value, as other readers of the same file do. Otherwise a repeated key
    is an error, because one of its values would be lost.
    not_finite: return NaN and infinite numbers, which Python writes; otherwise they are an error.
    Raises Unreadable: `too_large`, `not_text`, `not_json`, `too_deep`, `repeated_key`, `not_finite`, `too_many_digits`.
    """
    text = decode_text(content, named, max_bytes)
    reader = _Reader(named)
    try:
        value = json.loads(
            text,
            parse_int=reader.integer,
            parse_float=reader.number,
            parse_constant=reader.number,
            object_pairs_hook=None if repeated_keys else reader.object,
        )
    except json.JSONDecodeError as error:
        place = f" (line {error.lineno}, column {error.colno})"
        raise Unreadable("not_json", f"{named} is not JSON{place}", hint="correct it and send it again") from None
    except RecursionError:
        raise too_deep(named) from None
    # These checks are skipped for most documents, which have few brackets and no escaped surrogates.
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value, named)
    if (reader.found_infinity and not not_finite) or ESCAPED_SURROGATE.search(text):
        _check_values(value, named, not_finite=not_finite)
    return value


def read_json_object(
    content: bytes | str,
    *,
    named: str = "this",
    max_bytes: int = MAX_BYTES,
    repeated_keys: bool = False,
    not_finite: bool = False,
) -> dict[str, Any]:
    """Decode a JSON document that has to be an object.

    Parameters as in `read_json`.

    Raises Unreadable, also with code `not_an_object`.
    """
    value = read_json(content, named=named, max_bytes=max_bytes, repeated_keys=repeated_keys, not_finite=not_finite)
    if not isinstance(value, dict):
        raise Unreadable("not_an_object", f"{named} is not a JSON object", hint="send an object, {…}")
    return value


class _Reader:
    """Hooks that the JSON decoder calls for each number and object."""

    def __init__(self, named: str):
        self._named = named
        self.found_infinity = False

    def integer(self, digits: str) -> int:
        """Decode an integer of at most MAX_DIGITS digits.

        Python's int() takes quadratic time.
        """
        if len(digits) > MAX_DIGITS:
            message = f"{self._named} has a number of more than {MAX_DIGITS} digits"
            raise Unreadable("too_many_digits", message, hint="round it")
        return int(digits)

    def number(self, text: str) -> float:
        """Decode a number with a fraction or an exponent, NaN or Infinity.

        Sets `found_infinity` if it is not finite.
        """
        value = float(text)  # infinite if it is too large for a float
        self.found_infinity = self.found_infinity or not math.isfinite(value)
        return value

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Build an object, and refuse repeated keys."""
        value = dict(pairs)
        if len(value) < len(pairs):
            repeated = first_repeated(name for name, _ in pairs)
            message = f"{self._named} has the key {str(repeated)[:80]!r} twice"
            raise Unreadable("repeated_key", message, hint="keep one of them")
        return value


def _check_depth(value: Any, named: str) -> None:
    """Refuse a value that is nested too deeply.

    It is searched level by level: a tokenizer has a million values, but only five levels.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise too_deep(named)


def _check_values(value: Any, named: str, *, not_finite: bool = False) -> None:
    """Refuse lone surrogates and non-finite numbers, wherever they are.

    not_finite: accept such numbers.
    """
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        loc, item = waiting.pop()
        if isinstance(item, str):
            if LONE_SURROGATE.search(item):
                raise lone_surrogate(named, loc)
        elif isinstance(item, float):
            if not not_finite and not math.isfinite(item):
                raise Unreadable("not_finite", f"{named} has a number that is not finite", hint=FINITE, loc=loc)
        elif isinstance(item, dict):
            waiting += [(loc, key) for key in item]
            waiting += [((*loc, key), inner) for key, inner in item.items()]
        elif isinstance(item, list):
            waiting += [((*loc, index), inner) for index, inner in enumerate(item)]
