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


# Details of the events about another attempt.
_ATTEMPT = {
    "attempt": "number of the attempt that began",
    "cause": "why the previous attempt ended: `sigterm`, `crashed`, or the name and first line of an exception",
}
EVENT_TYPES: Mapping[str, EventType] = {
    "job_queued": EventType(
        "The job was accepted.",
        {"parent_job_id": "id of the job that this one exports from, or that it trains on from"},
    ),
    "job_preparing": EventType("The first attempt of prepare began."),
    "prepare_restarted": EventType("Another attempt of prepare began.", _ATTEMPT),
    "prepare_done": EventType(
        "The rows and the base model are ready, and the machine is chosen.",
        {
            "warnings": "list of `code`, `message`, `hint`",
            "rows": "what became of the rows, as in the status",
            "plan": "what the job will take, as in the status",
        },
    ),
    "job_training": EventType("The first attempt of train began."),
    "train_restarted": EventType("Another attempt of train began; it resumes from the newest checkpoint.", _ATTEMPT),
    "train_done": EventType("The adapter or model is stored, and the metrics are recorded."),
    "job_exporting": EventType("The first attempt of export began."),
    "export_restarted": EventType("Another attempt of export began.", _ATTEMPT),
    "job_waiting": EventType(
        "The next step waits for a machine.",
        {
            "machine": "kind of machine",
            "reason": "`slot`, `quota`, `capacity`, `pending`, `maintenance` or `not_deployed`, as in `waiting` of the "
            "status",
            "position": "place in the queue; 0 if the job is not in it",
        },
    ),
    "job_admitted": EventType(
        "The wait is over: the step begins on its machine.",
        {"machine": "kind of machine", "waited_seconds": "how long the job waited"},
    ),
    "job_paused": EventType(
        "The job is paused, and holds no machine.",
        {
            "reason": "`request`, `prepare`, `cost_cap` or `budget`, as in `pause` of the status",
            "checkpoint": "train_step of the checkpoint that it resumes from; 0: from the beginning",
        },
    ),
    "job_resumed": EventType("A user resumed the job; it is queued again."),
    "job_completed": EventType(
        "The job is completed, and its files are stored.", {"adapter_path": "URI of the result's folder"}
    ),
    "job_failed": EventType("The job failed.", {"code": "code of the error", "message": "the error in one sentence"}),
    "job_cancelled": EventType("A user cancelled the job."),
    "job_relaunched": EventType(
        "The job's workflow execution was lost; a new one resumes its steps.",
        {
            "launch": "number of the new launch",
            "cause": "`heartbeat_stale`, or `execution_` followed by how the execution ended",
        },
    ),
    "unknown": EventType("The stored event cannot be read by this version; only its number is known."),
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
