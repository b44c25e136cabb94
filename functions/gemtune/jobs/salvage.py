"""What can be read of a record that this version cannot read, so that its job can be ended and removed."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gemtune.errors import RecordUnreadable
from gemtune.jobs.record import Job
from gemtune.jobs.status import Status

# The field that keeps, by their places, the values that could not be read.
UNREADABLE = "unreadable"
# Stand for fields that a record cannot do without.
STAND_INS: Mapping[str, str] = {
    "job_name": "",
    "status": Status.UNKNOWN,
    "modality": "",
    "base_model_id": "",
    "processed_dataset_id": "",
    "spec_uri": "",
    "spec_name": "",
    "source": "",
    "owner": "",
    "request_hash": "",
}
# Each pass takes out everything that is wrong on its level, and a record is less deep than this.
PASSES = 20

Place = tuple[str | int, ...]


def salvage_job(stored: str | Mapping[str, Any], facts: Mapping[str, Any]) -> Job:
    """The job, with what cannot be read at its default, and set aside in the field `unreadable`.

    facts: what the store knows without the record, `job_id` and `created_at` at least; they count more than the record.
    """
    fields = {**_fields(stored), **facts}
    fields.setdefault("updated_at", fields["created_at"])
    for _ in range(PASSES):
        try:
            return Job.model_validate(fields)
        except ValidationError as error:
            places = {
                _place(fields, detail["loc"]) for detail in error.errors(include_url=False, include_context=False)
            }
        for place in sorted(places, key=_order, reverse=True):
            _set_aside(fields, place)
    raise RecordUnreadable(str(facts["job_id"]), "nothing of it can be read")


def _fields(stored: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(stored, str):
        return copy.deepcopy(dict(stored))
    try:
        fields = json.loads(stored)
    except (ValueError, RecursionError):
        fields = None
    return fields if isinstance(fields, dict) else {UNREADABLE: {"record": stored}}


def _place(fields: Mapping[str, Any], loc: Place) -> Place:
    """The innermost value on the way to a fault that can be taken out; a missing field takes its object with it."""
    node: Any = fields
    for depth, part in enumerate(loc):
        inside = part in node if isinstance(node, dict) else isinstance(node, list) and isinstance(part, int)
        if not inside:
            return loc[: max(depth, 1)]
        node = node[part]
    return loc


def _order(place: Place) -> list[tuple[int, str]]:
    """Orders places so that, from the end, taking one out moves none of those that follow."""
    return [(part, "") if isinstance(part, int) else (-1, part) for part in place]


def _set_aside(fields: dict[str, Any], place: Place) -> None:
    parent: Any = fields
    for part in place[:-1]:
        parent = parent[part]
    last: Any = place[-1]
    if isinstance(parent, list) or last in parent:
        unreadable = fields[UNREADABLE] if isinstance(fields.get(UNREADABLE), dict) else {}
        fields[UNREADABLE] = unreadable | {".".join(map(str, place)): parent.pop(last)}
    if parent is fields and last in STAND_INS:
        fields[last] = STAND_INS[last]
