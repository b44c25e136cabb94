"""Facts about a job, in the past tense, numbered per job without gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator


@dataclass(frozen=True, slots=True)
class EventType:
    """The meaning of one `type`. details: name -> meaning of each entry of `details`, all of which may be absent."""

    meaning: str
    details: Mapping[str, str] = field(default_factory=dict)


_ATTEMPT = {
    "attempt": "number of the attempt that began",
    "cause": "how the one before it ended: `sigterm`, `crashed`, or an exception's name and first line",
}
EVENT_TYPES: Mapping[str, EventType] = {
    "job_queued": EventType(
        "The job was accepted.", {"parent_job_id": "the job whose training result this one exports again"}
    ),
    "job_preparing": EventType("The first attempt of prepare began."),
    "prepare_restarted": EventType("Another attempt of prepare began.", _ATTEMPT),
    "prepare_done": EventType(
        "Rows, base model and machine are ready.", {"warnings": "list of `code`, `message`, `hint`"}
    ),
    "job_training": EventType("The first attempt of train began."),
    "train_restarted": EventType("Another attempt of train began; it resumes from the newest checkpoint.", _ATTEMPT),
    "train_done": EventType("The adapter or model is stored, and the metrics are recorded."),
    "job_exporting": EventType("The first attempt of export began."),
    "export_restarted": EventType("Another attempt of export began.", _ATTEMPT),
    "job_completed": EventType("The job is over, and its files are there.", {"adapter_path": "where the result is"}),
    "job_failed": EventType(
        "The job is over without a result.", {"code": "that of `error_detail`", "message": "its sentence"}
    ),
    "job_cancelled": EventType("A user ended the job."),
    "job_relaunched": EventType(
        "The job's execution was lost; a new one resumes it.",
        {"launch": "number of the new launch", "cause": "`heartbeat_stale`, or `execution_` and how it ended"},
    ),
    "unknown": EventType("A stored event that this version cannot read; it keeps its number."),
}


class Event(BaseModel):
    """One fact. `seq` starts at 1; `type` is `job_<status>` for a move, else what happened.

    Fields that a newer version added are kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    job_id: str
    seq: int
    type: str
    status: str
    at: datetime
    details: dict[str, Any] = {}

    @field_validator("details")
    @classmethod
    def _in_order(cls, details: dict[str, Any]) -> dict[str, Any]:
        """By name: Firestore's maps forget the order they were written in."""
        return dict(sorted(details.items()))
