"""Events of a job: facts in the past tense, numbered per job without gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


@dataclass(frozen=True, slots=True)
class EventType:
    """Meaning of one `type` of events.

    details: name -> meaning of each entry of `details`, all of which may be absent.
    """

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
    """One event of a job. Fields that a newer version added are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    job_id: str = Field(description="id of the job")
    seq: int = Field(description="number of the event within its job, from 1 and without gaps")
    type: str = Field(description="`job_<status>` for a change of status, otherwise what happened, e.g. `train_done`")
    status: str = Field(description="status of the job after the event")
    at: datetime = Field(description="when it happened")
    details: dict[str, Any] = Field({}, description="further facts, by name; which ones depends on the type")

    @field_validator("details")
    @classmethod
    def _sorted(cls, details: dict[str, Any]) -> dict[str, Any]:
        """Sort the details by name.

        Firestore's maps do not keep the order in which they were written.
        """
        return dict(sorted(details.items()))
