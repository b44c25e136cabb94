"""Reader of untrusted YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from gemtune.untrusted.json_reader import read_json
from gemtune.untrusted.limits import MAX_DEPTH, MAX_YAML_BYTES, Unreadable, too_deep
from gemtune.untrusted.text import decode_text

# Possible begin of a directive, which is the first character of a line.
DIRECTIVE = re.compile(r"(?:^|[\r\n\x85\u2028\u2029])%")
MERGE = "<<"


def read_yaml(content: bytes, *, named: str = "this") -> Any:
    """Decode a YAML document into JSON's types.

    It is read as YAML 1.2, so that `no` is a string and 2e-4 a number; dates are strings as they are written. Refused
    is what no request needs: tags, keys that are not strings, several documents, directives other than `%YAML 1.2`,
    and anchors, aliases and merge keys, because a few lines of aliases can expand to gigabytes.

    Raises Unreadable: `too_large`, `not_text`, `not_yaml`, `too_deep`, `repeated_key`, `yaml_alias`, `yaml_directive`,
    `yaml_tag`, `not_finite`.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text = decode_text(content, named, MAX_YAML_BYTES)
    hint = "correct it and send it again"
    try:
        if DIRECTIVE.search(text):
            _check_directives(YAML(typ="safe", pure=True).scan(text), named)
        _check_plain(YAML(typ="safe", pure=True).parse(text), named)
        loader = YAML(typ="safe", pure=True)
        loader.Constructor = _constructor()
        written = json.dumps(_checked_keys(loader.load(text), named))
    except DuplicateKeyError as error:
        place = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise Unreadable("repeated_key", f"{named} has a key twice{place}", hint="keep one of them") from None
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise Unreadable("not_yaml", f"{named} is not YAML{place}", hint=hint) from None
    except (ValueError, OverflowError, RecursionError, AssertionError):
        # of numbers, escapes beyond Unicode, nesting, and versions of YAML that do not exist
        raise Unreadable("not_yaml", f"{named} is not YAML", hint=hint) from None
    return read_json(written, named=named, max_bytes=8 * MAX_YAML_BYTES)


def _constructor() -> type[Any]:
    """Return a constructor of values that leaves dates and `=` as text.

    YAML 1.2 knows no types for them.
    """
    from ruamel.yaml.constructor import SafeConstructor

    class Constructor(SafeConstructor):
        pass

    for name in ("timestamp", "value"):
        Constructor.add_constructor(f"tag:yaml.org,2002:{name}", SafeConstructor.construct_yaml_str)
    return Constructor


def _checked_keys(value: Any, named: str) -> Any:
    """Return a value whose keys are all strings; others are refused.

    JSON would write them otherwise than the document does, such as 16 for `0x10`.
    """
    level = [value]
    while level:
        keys = (key for item in level if isinstance(item, dict) for key in item)
        if any(not isinstance(key, str) for key in keys):
            raise Unreadable("not_yaml", f"{named} has a key that is not a string", hint="put the key in quotes")
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [item for items in inner for item in items]
    return value


def _check_directives(tokens: Iterable[Any], named: str) -> None:
    """Refuse all directives before a document but `%YAML 1.2`."""
    from ruamel.yaml.tokens import DirectiveToken, StreamStartToken

    for token in tokens:
        if isinstance(token, DirectiveToken) and (token.name, token.value) != ("YAML", (1, 2)):
            raise Unreadable(
                "yaml_directive",
                f"{named} has a %{token.name[:80]} directive, which is not supported: it is read as YAML 1.2",
                hint="remove the line; in YAML 1.2, `no` and `off` are texts, and 010 is the number 10",
            )
        if not isinstance(token, DirectiveToken | StreamStartToken):
            return


def _check_plain(events: Iterable[Any], named: str) -> None:
    """Refuse anchors, aliases, merge keys, tags, and what is too much.

    Scanning deeply nested YAML takes quadratic time.
    """
    from ruamel.yaml.events import (
        AliasEvent,
        CollectionEndEvent,
        CollectionStartEvent,
        DocumentStartEvent,
        ScalarEvent,
    )

    depth = documents = 0
    for event in events:
        documents += isinstance(event, DocumentStartEvent)
        if documents > 1:
            raise Unreadable("not_yaml", f"{named} has more than one document", hint="send each one by itself")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise too_deep(named)
        if getattr(event, "anchor", None) is not None:
            name = "an alias" if isinstance(event, AliasEvent) else "an anchor"
            raise Unreadable("yaml_alias", f"{named} has {name}, which is not supported", hint="write the value out")
        if isinstance(event, ScalarEvent) and event.style is None and event.value == MERGE:
            message = f"{named} has the merge key {MERGE}, which is not supported"
            raise Unreadable("yaml_alias", message, hint="write the fields out, or the text in quotes")
        if getattr(event, "tag", None) is not None:
            raise Unreadable(
                "yaml_tag", f"{named} has a tag, which is not supported", hint="write the value without its tag"
            )
