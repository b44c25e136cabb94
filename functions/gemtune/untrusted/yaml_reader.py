"""Reader of untrusted YAML."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from gemtune.untrusted.json_reader import read_json
from gemtune.untrusted.limits import MAX_DEPTH, MAX_YAML_BYTES, Unreadable, too_deep
from gemtune.untrusted.text import decode_text


def read_yaml(content: bytes, *, named: str = "this") -> Any:
    """Decode a YAML document into JSON's types.

    It is read as YAML 1.2, so that `no` is a string and 2e-4 a number; dates become strings. Tags are refused, and so
    are aliases, because a few lines of them can expand to gigabytes.

    Raises Unreadable: `too_large`, `not_text`, `not_yaml`, `too_deep`, `yaml_alias`, `yaml_tag`, `not_finite`.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text = decode_text(content, named, MAX_YAML_BYTES)
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


def _check_plain(events: Iterable[Any], named: str) -> None:
    """Refuse what no request needs: aliases, tags, and deep nesting.

    Scanning deeply nested YAML takes quadratic time.
    """
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise too_deep(named)
        if isinstance(event, AliasEvent):
            raise Unreadable("yaml_alias", f"{named} has an alias, which is not supported", hint="write the value out")
        if getattr(event, "tag", None) is not None:
            raise Unreadable(
                "yaml_tag", f"{named} has a tag, which is not supported", hint="write the value without its tag"
            )
