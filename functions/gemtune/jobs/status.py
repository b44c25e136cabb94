"""Statuses and steps of a job, and the one table of moves between statuses."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Status(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    TRAINING = "training"
    EXPORTING = "exporting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # only shown in a list, for a record that cannot be read


# The one table of moves. A status that is not a key here is final.
MOVES: Mapping[Status, frozenset[Status]] = {
    # To exporting goes what exports again: a job whose train step came with it, done.
    Status.QUEUED: frozenset({Status.PREPARING, Status.EXPORTING, Status.FAILED, Status.CANCELLED}),
    Status.PREPARING: frozenset({Status.TRAINING, Status.FAILED, Status.CANCELLED}),
    Status.TRAINING: frozenset({Status.EXPORTING, Status.FAILED, Status.CANCELLED}),
    Status.EXPORTING: frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
}


UNFINISHED = frozenset(MOVES)


class Step(StrEnum):
    PREPARE = "prepare"
    TRAIN = "train"
    EXPORT = "export"


STATUS_OF: Mapping[Step, Status] = {
    Step.PREPARE: Status.PREPARING,
    Step.TRAIN: Status.TRAINING,
    Step.EXPORT: Status.EXPORTING,
}


STEPS: tuple[Step, ...] = tuple(Step)
