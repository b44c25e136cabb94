"""Names of the files of checkpoints in the export bucket.

    jobs/<job>/checkpoints/<attempt>/checkpoint-<train_step>/<file>

The manifest of a checkpoint lists its other files with their sizes, and is written last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MANIFEST = "manifest.json"
_PREFIX = re.compile(r"(?P<prefix>.*/checkpoints/(?P<attempt>\d{1,9})/checkpoint-(?P<train_step>\d{1,15}))/", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class CheckpointPlace:
    """Place of a checkpoint; orders by train_step, then by attempt."""

    train_step: int
    attempt: int
    prefix: str


def checkpoints_folder(job_prefix: str) -> str:
    """Return the prefix of all checkpoints of a job, which has `job_prefix`."""
    return f"{job_prefix}/checkpoints/"


def place_of(job_prefix: str, *, attempt: int, train_step: int) -> CheckpointPlace:
    """Return the place of a checkpoint."""
    return CheckpointPlace(train_step, attempt, f"{checkpoints_folder(job_prefix)}{attempt}/checkpoint-{train_step}")


def place_in(name: str) -> CheckpointPlace | None:
    """Return the place of the checkpoint that an object belongs to, or None."""
    match = _PREFIX.match(name)
    return None if match is None else CheckpointPlace(int(match["train_step"]), int(match["attempt"]), match["prefix"])
