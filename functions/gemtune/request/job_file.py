"""Reads the JSON or YAML of a job file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from gemtune.errors import Problem, RequestRefused

# A request has three levels.
MAX_DEPTH = 20


def as_json(content: bytes, *, yaml: bool) -> Any:
    """What the file holds, as JSON knows it. YAML is 1.2, so `no` is a string and 2e-4 a number; anchors and aliases
    are refused, because a few lines of them unfold into gigabytes, and so are tags. Raises RequestRefused."""
    try:
        text = content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError:
        raise _refused("this is not UTF-8 text", "not_text", "save the file as UTF-8") from None
    try:
        return _yaml(text) if yaml else json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        name, code = ("YAML", "not_yaml") if yaml else ("JSON", "not_json")
        raise _refused(f"this is not {name}{where}", code, "correct the file and upload it again") from None


def _yaml(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        _check_plain(YAML(typ="safe", pure=True).parse(text))
        # Through JSON text: dates become strings, and keys too.
        return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=str))
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise _refused(f"this is not YAML{where}", "not_yaml", "correct the file and upload it again") from None
    except TypeError:
        raise _refused("a key of this YAML is not a text", "not_yaml", "use field names as keys") from None


def _check_plain(events: Iterable[Any]) -> None:
    """Refuse what no request needs: aliases, tags, and depth, whose scanning takes time by its square."""
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _refused(f"this is nested deeper than {MAX_DEPTH} levels", "too_deep", "see GET /openapi.json")
        if isinstance(event, AliasEvent):
            raise _refused("anchors and aliases are not read", "yaml_alias", "write the value out")
        if getattr(event, "tag", None) is not None:
            raise _refused("tags are not read", "yaml_tag", "write the value without its tag")


def _refused(message: str, code: str, hint: str) -> RequestRefused:
    return RequestRefused([Problem((), message, code, hint)])
