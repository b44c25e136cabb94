"""The only parser of untrusted JSON, YAML and numbers.

It limits size, nesting and parsing time, and raises Unreadable for every violation.

Requests, query strings, page tokens, job files, model configurations, rows and manifests are read here. The values that
this module returns are finite, unless their reader asks for others, at most MAX_DEPTH levels deep, and can be encoded
as UTF-8.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gemtune.errors import GemtuneError

# Limit in bytes for a request, a job file, a row of text, and a model's config.json.
MAX_BYTES = 1024 * 1024
# Limit in bytes for other files of a model: Gemma 3's tokenizer_config.json is 1.2 MB, its tokenizer.json 33 MB.
MAX_MODEL_FILE_BYTES = 128 * 1024 * 1024
# Limit in bytes for YAML, which is parsed in Python at about 70 KB per second.
MAX_YAML_BYTES = 64 * 1024
# A request has five levels around a reward's JSON Schema, which may have 32 with two levels each.
MAX_DEPTH = 80
# A float holds whole numbers of up to 309 digits. Tokenizer configurations do contain 10^30.
MAX_DIGITS = 300
# The largest whole number on which implementations of JSON agree (RFC 8259, section 6).
MAX_NUMBER = 2**53 - 1

FINITE = "use finite numbers, since JSON has no others"
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]*", re.ASCII)


class Unreadable(GemtuneError):
    """Raised for an untrusted document that violates its format or a limit.

    code: what it violates. loc: the location in the document, as far as it is known.
    """

    code = "unreadable"

    def __init__(self, code: str, message: str, *, hint: str, loc: tuple[str | int, ...] = ()):
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]
        self.loc = loc


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
    text = _text(content, named, max_bytes)
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
        raise _too_deep(named) from None
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


def read_yaml(content: bytes, *, named: str = "this") -> Any:
    """Decode a YAML document into JSON's types.

    It is read as YAML 1.2, so that `no` is a string and 2e-4 a number; dates become strings. Tags are refused, and so
    are aliases, because a few lines of them can expand to gigabytes.

    Raises Unreadable: `too_large`, `not_text`, `not_yaml`, `too_deep`, `yaml_alias`, `yaml_tag`, `not_finite`.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text = _text(content, named, MAX_YAML_BYTES)
    hint = "correct it and send it again"
    try:
        _check_plain(YAML(typ="safe", pure=True).parse(text), named)
        # Converting to JSON text turns dates and keys into strings.
        written = json.dumps(YAML(typ="safe", pure=True).load(text), default=str)
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise Unreadable("not_yaml", f"{named} is not YAML{place}", hint=hint) from None
    except TypeError:
        raise Unreadable(
            "not_yaml", f"{named} has a key that is not a string", hint="use field names as keys"
        ) from None
    except (ValueError, OverflowError, RecursionError):  # of dates, and of escapes beyond Unicode
        raise Unreadable("not_yaml", f"{named} is not YAML", hint=hint) from None
    return read_json(written, named=named, max_bytes=8 * MAX_YAML_BYTES)


def read_number(text: str, *, least: int, most: int, named: str = "this") -> int:
    """Decode a non-negative whole number in decimal digits.

    Signs, leading zeros and blanks are refused. least, most: bounds, both included.
    Raises Unreadable with code `not_a_number`.
    """
    if len(text) <= len(str(most)) and WHOLE_NUMBER.fullmatch(text) and least <= int(text) <= most:
        return int(text)
    raise Unreadable(
        "not_a_number", f"{named} has to be a whole number from {least} to {most}", hint="leave it out for the default"
    )


def read_file(path: Path, *, named: str | None = None, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file.

    A pipe or a device, on which reading could block, is refused without waiting.

    Raises OSError, and Unreadable: `not_a_file`, `too_large`.
    """
    named = path.name if named is None else named
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Unreadable("not_a_file", f"{named} is not a regular file", hint="put the file itself there")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise too_large(named, max_bytes)
    return content


def too_large(named: str, max_bytes: int) -> Unreadable:
    """Return the error for a document that is too large."""
    return Unreadable("too_large", f"{named} has more than {max_bytes} bytes", hint="make it smaller")


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that an earlier one equals, or None.

    It takes linear time: a request of 1 MiB can have a hundred thousand names.
    """
    earlier: set[str] = set()
    for name in names:
        if name in earlier:
            return name
        earlier.add(name)
    return None


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


def _text(content: bytes | str, named: str, max_bytes: int) -> str:
    """Decode a document as UTF-8.

    A byte order mark, with which some editors begin a file, is removed.
    """
    if len(content) > max_bytes:
        raise too_large(named, max_bytes)
    if isinstance(content, str):
        if LONE_SURROGATE.search(content):
            raise _lone_surrogate(named)
        return content.removeprefix("\ufeff")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("not_text", f"{named} is not UTF-8 text", hint="save it as UTF-8") from None


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
    raise _too_deep(named)


def _check_values(value: Any, named: str, *, not_finite: bool = False) -> None:
    """Refuse lone surrogates and non-finite numbers, wherever they are.

    not_finite: accept such numbers.
    """
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        loc, item = waiting.pop()
        if isinstance(item, str):
            if LONE_SURROGATE.search(item):
                raise _lone_surrogate(named, loc)
        elif isinstance(item, float):
            if not not_finite and not math.isfinite(item):
                raise Unreadable("not_finite", f"{named} has a number that is not finite", hint=FINITE, loc=loc)
        elif isinstance(item, dict):
            waiting += [(loc, key) for key in item]
            waiting += [((*loc, key), inner) for key, inner in item.items()]
        elif isinstance(item, list):
            waiting += [((*loc, index), inner) for index, inner in enumerate(item)]


def _check_plain(events: Iterable[Any], named: str) -> None:
    """Refuse what no request needs: aliases, tags, and deep nesting.

    Scanning deeply nested YAML takes quadratic time.
    """
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _too_deep(named)
        if isinstance(event, AliasEvent):
            raise Unreadable("yaml_alias", f"{named} has an alias, which is not supported", hint="write the value out")
        if getattr(event, "tag", None) is not None:
            raise Unreadable(
                "yaml_tag", f"{named} has a tag, which is not supported", hint="write the value without its tag"
            )


def _lone_surrogate(named: str, loc: tuple[str | int, ...] = ()) -> Unreadable:
    """Return the error for half of a surrogate pair.

    loc: place in the document. Parts of it that are not valid text themselves are left out.
    """
    message = f"{named} has half of a surrogate pair, which is not a character"
    valid_loc = tuple(part for part in loc if isinstance(part, int) or not LONE_SURROGATE.search(part))
    return Unreadable("not_text", message, hint="send \\u escapes of surrogates in pairs, or UTF-8", loc=valid_loc)


def _too_deep(named: str) -> Unreadable:
    return Unreadable("too_deep", f"{named} is nested deeper than {MAX_DEPTH} levels", hint="see GET /openapi.json")
