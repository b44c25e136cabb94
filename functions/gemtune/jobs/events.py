"""Facts about a job, in the past tense, numbered per job without gaps."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator


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
