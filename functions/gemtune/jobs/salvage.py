"""Salvage: read what is readable of a damaged or too new record.

With it the job can at least be cancelled and deleted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gemtune.errors import RecordUnreadable
from gemtune.jobs.record import Job
from gemtune.jobs.status import Status
from gemtune.untrusted import Unreadable, read_json

# The field that keeps the values that could not be read, by their places in the record.
UNREADABLE = "unreadable"
# Values for required fields that are missing or cannot be read.
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
# Each pass removes everything that is wrong on one level. A record has fewer levels than this.
PASSES = 20

Place = tuple[str | int, ...]


def salvage_job(stored: str | Mapping[str, Any], facts: Mapping[str, Any]) -> Job:
    """Return the job, with defaults in place of what cannot be read.

    The original values of those fields are kept in the field `unreadable`.
    facts: fields that the store knows without the record, at least `job_id` and `created_at`. They replace the record's
    own. Raises RecordUnreadable when nothing can be read.
    """
    fields = {**_fields(stored), **facts}
    for _ in range(PASSES):
        fields.setdefault("updated_at", fields["created_at"])
        try:
            return Job.model_validate(fields)
        except ValidationError as error:
            places = {
                _place(fields, detail["loc"]) for detail in error.errors(include_url=False, include_context=False)
            }
        # In descending order, removing an item of a list does not shift the places that are still to be removed.
        for place in sorted(places, reverse=True):
            _set_aside(fields, place)
    raise RecordUnreadable(str(facts["job_id"]), "nothing of it can be read")


def _fields(stored: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the record's fields.

    A text that is not a JSON object becomes one unreadable value.
    """
    if not isinstance(stored, str):
        return copy.deepcopy(dict(stored))
    try:
        fields = json.loads(stored)
    except (ValueError, RecursionError):
        fields = None
    return _storable(fields) if isinstance(fields, dict) else {UNREADABLE: {"record": stored}}


def _storable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields that can be written as JSON again.

    Fields that are nested too deeply, or have half of a surrogate pair, become texts with escapes among the unreadable.
    """
    storable, unstorable = dict[str, Any](), dict[str, str]()
    for name, value in fields.items():
        written = json.dumps({name: value})
        try:
            read_json(written, max_bytes=len(written), not_finite=True)
            storable[name] = value
        except Unreadable:
            unstorable[json.dumps(name)[1:-1]] = json.dumps(value)
    if unstorable:
        earlier = storable.get(UNREADABLE)
        storable[UNREADABLE] = (earlier if isinstance(earlier, dict) else {}) | unstorable
    return storable


def _place(fields: Mapping[str, Any], loc: Place) -> Place:
    """Return the location of the innermost value that contains an error.

    For a missing field that is the object which lacks it.
    """
    node: Any = fields
    for depth, part in enumerate(loc):
        inside = part in node if isinstance(node, dict) else isinstance(node, list) and isinstance(part, int)
        if not inside:
            return loc[: max(depth, 1)]
        node = node[part]
    return loc


def _set_aside(fields: dict[str, Any], place: Place) -> None:
    """Move a value from its place to the field `unreadable`.

    A required field gets its stand-in.
    """
    parent: Any = fields
    for part in place[:-1]:
        parent = parent[part]
    last: Any = place[-1]
    if isinstance(parent, list) or last in parent:
        unreadable = fields[UNREADABLE] if isinstance(fields.get(UNREADABLE), dict) else {}
        fields[UNREADABLE] = unreadable | {".".join(map(str, place)): parent.pop(last)}
    if parent is fields and last in STAND_INS:
        fields[last] = STAND_INS[last]
