"""Damage to stored documents, of every kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.unit.jobs.newer_records import LATER

# Values of another type than any field has, and numbers and times that arithmetic cannot do with.
WRONG: tuple[Any, ...] = (None, 7, "?", [[]], {"a": {}}, float("nan"), "0001-01-01T00:00:00Z", "2026-11-24T12:00:00")


def damaged(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each kind of damage to a document."""
    yield from (("empty", ""), ("empty object", "{}"), ("list", "[]"), ("null", "null"), ("number", "7"))
    yield from (("not JSON", "\x00not JSON"), ("truncated", text[: len(text) // 2]), ("deep", "[" * 5000))
    try:
        stored = json.loads(text)
    except ValueError:
        return
    if isinstance(stored, dict):
        yield "of a newer version", json.dumps(stored | {LATER: {"in": [1, None]}})
        for wrong in WRONG:
            yield f"every field {wrong!r}", json.dumps(dict.fromkeys(stored, wrong))
        yield "a wrong value in every part", json.dumps(_spoilt(stored))


def _spoilt(stored: Any) -> Any:
    """Return a value with a list in place of the last field of each part."""
    if isinstance(stored, dict):
        fields = {name: _spoilt(value) for name, value in stored.items()}
        return fields | {name: [[]] for name in list(fields)[-1:]}
    return [_spoilt(item) for item in stored] if isinstance(stored, list) else stored
