"""Values that the configuration sets, also those that only an apply knows."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.infra.planned import Planned

# Attributes that hold documents, which are compared as such.
DOCUMENTS = {"dashboard_json", "contents"}
# Attributes that are configured although they have the name of an attribute that Google computes.
CONFIGURED = {"google_cloud_scheduler_job": "uri"}


def configured(plan: Mapping[str, Any], state: Planned) -> dict[str, Any]:
    """Return the configured values of each resource, by address.

    plan: what the state was made by, in the format of `terraform show -json`. Values that the stand-ins make up for
    attributes of their own are left out; those that refer to others' are kept.
    """
    applied = dict(state.resources())
    values = {}
    for change in plan["resource_changes"]:
        if change["mode"] == "managed":
            after, unknown = change["change"]["after"] or {}, change["change"]["after_unknown"]
            address = change["address"]
            values[address] = _known(after, unknown, applied[address], "", CONFIGURED.get(change["type"], "")) or {}
    return values


def _known(after: Any, unknown: Any, applied: Any, name: str, configured_name: str) -> Any:
    """Return a value without what is empty or made up; None if it is all.

    configured_name: an attribute whose value is never made up for itself.
    """
    if unknown is True:
        is_own = isinstance(applied, str) and applied.startswith(f"made-up-{name}-of-") and name != configured_name
        is_made_up = not applied or is_own
        return None if is_made_up else _plain(applied, name)
    if isinstance(after, dict) or (after is None and isinstance(unknown, dict)):
        names = {*(after or {}), *(unknown or {})}
        inner = {
            key: _known(
                (after or {}).get(key),
                unknown.get(key, False) if isinstance(unknown, dict) else False,
                (applied or {}).get(key) if isinstance(applied, dict) else None,
                key,
                configured_name,
            )
            for key in sorted(names)
        }
        return {key: value for key, value in inner.items() if value is not None} or None
    if isinstance(after, list):
        flags = unknown if isinstance(unknown, list) else [False] * len(after)
        flags = [*flags, *[False] * (len(after) - len(flags))]
        inner_values = applied if isinstance(applied, list) and len(applied) == len(after) else [None] * len(after)
        items = [
            _known(each, flag, value, name, configured_name)
            for each, flag, value in zip(after, flags, inner_values, strict=True)
        ]
        # An empty block says something too, such as `ttl_config {}`.
        return [
            {} if item is None and isinstance(each, dict) else item for item, each in zip(items, after, strict=True)
        ] or None
    return None if after in (None, "") and name != "ttl" else _plain(after, name)


def _plain(value: Any, name: str) -> Any:
    if name in DOCUMENTS and isinstance(value, str):
        text = value if value.startswith("{") else base64.b64decode(value).decode()
        return json.loads(text)
    return value


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield the path and value of each scalar in a value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value
