"""One loss curve out of the histories that the attempts of a training left."""

from __future__ import annotations

import json
import re
from typing import Any

from gemtune.ports import Objects

# Each attempt's file has its number.
ATTEMPT = re.compile(r"/(?P<number>[0-9]{1,9})\.jsonl$")


def loss_history(export: Objects, job_id: str, *, after: int | None) -> list[dict[str, Any]]:
    """Entries with a higher train_step than `after`, by train_step. An attempt resumes at a checkpoint, so what a
    later attempt says of a train_step replaces what an earlier one said."""
    merged: dict[tuple[int, bool], dict[str, Any]] = {}
    names = (ATTEMPT.search(stat.name) for stat in export.list(f"jobs/{job_id}/metrics/"))
    for name in sorted((name for name in names if name is not None), key=lambda name: int(name["number"])):
        for line in export.read(name.string).decode().splitlines():
            entry = json.loads(line)
            is_evaluation = "loss" not in entry
            merged[(entry["train_step"], is_evaluation)] = entry
    return [merged[key] for key in sorted(merged) if after is None or key[0] > after]
