"""Loss curve of a job, merged from the histories of its attempts."""

from __future__ import annotations

import logging
import re
from typing import Any

from gemtune.ports import Objects
from gemtune.untrusted import Unreadable, read_json_object

log = logging.getLogger(__name__)

# The history of an attempt is a file named by the attempt's number.
ATTEMPT = re.compile(r"/(?P<number>[0-9]{1,9})\.jsonl$")


def loss_history(export: Objects, job_id: str, *, after: int | None) -> list[dict[str, Any]]:
    """Return the logged entries, sorted by train_step.

    An attempt resumes at a checkpoint, so it may repeat train_steps of an earlier one; its entries replace those.
    Entries that cannot be read are left out. after: only entries with a higher train_step; None for all.
    """
    merged: dict[tuple[int, bool], dict[str, Any]] = {}
    matches = (ATTEMPT.search(stat.name) for stat in export.list(f"jobs/{job_id}/metrics/"))
    attempts = sorted((match for match in matches if match is not None), key=lambda match: int(match["number"]))
    for attempt in attempts:
        lines = export.read(attempt.string).splitlines()
        entries = [entry for entry in map(_entry, lines) if entry is not None]
        if len(entries) < len(lines):
            log.warning("%d of %d entries of %s cannot be read", len(lines) - len(entries), len(lines), attempt.string)
        merged |= {(entry["train_step"], "loss" not in entry): entry for entry in entries}
    return [merged[key] for key in sorted(merged) if after is None or key[0] > after]


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return an entry; None if it cannot be read."""
    try:
        entry = read_json_object(line)
    except Unreadable:
        return None
    return entry if type(entry.get("train_step")) is int else None
