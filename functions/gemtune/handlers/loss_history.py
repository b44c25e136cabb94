"""Loss curve of a job, merged from the histories of its attempts."""

from __future__ import annotations

import json
import re
from typing import Any

from gemtune.ports import Objects

# The history of an attempt is a file named by the attempt's number.
ATTEMPT = re.compile(r"/(?P<number>[0-9]{1,9})\.jsonl$")


def loss_history(export: Objects, job_id: str, *, after: int | None) -> list[dict[str, Any]]:
    """Return the logged entries, sorted by train_step.

    An attempt resumes at a checkpoint, so it may repeat train_steps of an earlier one; its entries replace those.
    after: only entries with a higher train_step; None for all.
    """
    merged: dict[tuple[int, bool], dict[str, Any]] = {}
    matches = (ATTEMPT.search(stat.name) for stat in export.list(f"jobs/{job_id}/metrics/"))
    attempts = sorted((match for match in matches if match is not None), key=lambda match: int(match["number"]))
    for attempt in attempts:
        for line in export.read(attempt.string).decode().splitlines():
            entry = json.loads(line)
            is_evaluation = "loss" not in entry
            merged[(entry["train_step"], is_evaluation)] = entry
    return [merged[key] for key in sorted(merged) if after is None or key[0] > after]
