"""Statuses and steps of a job, and the table of moves between statuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field


class Status(StrEnum):
    """Status of a job."""

    QUEUED = "queued"
    PREPARING = "preparing"
    TRAINING = "training"
    EXPORTING = "exporting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    # In a list: the record cannot be read. In MOVES: any status that only a newer version knows.
    UNKNOWN = "unknown"


# The meaning of each status for a job's user.
MEANINGS: Mapping[Status, str] = {
    Status.QUEUED: "Accepted and stored, or resumed; `waiting` says which machine it waits for.",
    Status.PREPARING: "Rows are checked and tokenized, the base model is copied, the machine is chosen. No GPU yet.",
    Status.TRAINING: "The model is evaluated, trained with checkpoints, and evaluated again.",
    Status.EXPORTING: "The result is converted, loaded again and compared with the trained model, and uploaded.",
    Status.PAUSED: "Nothing runs, and no machine is held; `pause` says why. It goes on from its newest checkpoint.",
    Status.COMPLETED: "The files are listed in `artifacts`, and the certificate shows that they behave as trained.",
    Status.FAILED: "It will not be tried again; `error` says why, and `error_detail` has the code and what to do.",
    Status.CANCELLED: "A user ended it. What was recorded until then stays until the job is deleted.",
    Status.UNKNOWN: "Another version of the service wrote the record, or it is damaged. A user can cancel it.",
}


# A status that this version does not know was written by a newer one, and is kept as text.
OpenStatus = Annotated[Status | str, Field(union_mode="left_to_right")]


# The only table of moves. A status that is not a key here is final.
MOVES: Mapping[Status, frozenset[Status]] = {
    # Straight to training or exporting go only jobs whose earlier steps are done: those that were paused, and those
    # that export again what another job trained.
    Status.QUEUED: frozenset(
        {Status.PREPARING, Status.TRAINING, Status.EXPORTING, Status.PAUSED, Status.FAILED, Status.CANCELLED}
    ),
    Status.PREPARING: frozenset({Status.TRAINING, Status.PAUSED, Status.FAILED, Status.CANCELLED}),
    Status.TRAINING: frozenset({Status.EXPORTING, Status.PAUSED, Status.FAILED, Status.CANCELLED}),
    # An export is paused only if it reaches a cap: it begins anew when it is resumed.
    Status.EXPORTING: frozenset({Status.COMPLETED, Status.PAUSED, Status.FAILED, Status.CANCELLED}),
    Status.PAUSED: frozenset({Status.QUEUED, Status.FAILED, Status.CANCELLED}),
    # This version does not know what a newer one meant to do with the job, so only its user may end it.
    Status.UNKNOWN: frozenset({Status.CANCELLED}),
}

FINAL = frozenset(Status) - frozenset(MOVES)
UNFINISHED = frozenset(MOVES) - {Status.UNKNOWN}
# Statuses of jobs that an execution may run.
LAUNCHABLE = UNFINISHED - {Status.PAUSED}
# Statuses in which a user may pause a job.
PAUSABLE = frozenset(status for status, following in MOVES.items() if Status.PAUSED in following) - {Status.EXPORTING}


def moves_from(status: Status | str) -> frozenset[Status]:
    """Return the statuses that a job may move to from this one."""
    return MOVES.get(status if isinstance(status, Status) else Status.UNKNOWN, frozenset())


def is_final(status: Status | str, finished_at: datetime | None) -> bool:
    """Return whether a job of this status is over.

    A status that only a newer version knows is final if the job has a `finished_at`.
    """
    return status in FINAL or (status not in UNFINISHED and finished_at is not None)


class Step(StrEnum):
    """Step of a job, each an execution of its own."""

    PREPARE = "prepare"
    TRAIN = "train"
    EXPORT = "export"


OpenStep = Annotated[Step | str, Field(union_mode="left_to_right")]  # like OpenStatus


# The status of a job while a step runs.
STATUS_OF: Mapping[Step, Status] = {
    Step.PREPARE: Status.PREPARING,
    Step.TRAIN: Status.TRAINING,
    Step.EXPORT: Status.EXPORTING,
}


# Steps that are done before a job may go from `queued` straight to a status.
DONE_BEFORE: Mapping[Status, Step] = {Status.TRAINING: Step.PREPARE, Status.EXPORTING: Step.TRAIN}


# All steps, in the order in which they run.
STEPS: tuple[Step, ...] = tuple(Step)
