"""Records as stores hold them, as JSON or as fields. What is written is checked: it can be read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from gemtune.errors import RecordInvalid, RecordUnreadable
from gemtune.jobs.record import Job

# Faults of a record that an error names; what one of them is, the others often are too.
FAULTS_NAMED = 3


def to_json(job: Job) -> str:
    """The record as JSON. Raises RecordInvalid: `model_copy` lets values of any type into a record."""
    try:
        text = job.model_dump_json(warnings="none")
        Job.model_validate_json(text)
    except (ValidationError, PydanticSerializationError) as error:
        raise RecordInvalid(job.job_id, _faults(error)) from error
    return text


def to_fields(job: Job) -> dict[str, Any]:
    """The record as a dictionary; times stay times. Raises RecordInvalid."""
    fields = job.model_dump(warnings="none")
    try:
        Job.model_validate(fields)
    except ValidationError as error:
        raise RecordInvalid(job.job_id, _faults(error)) from error
    return fields


def read(job_id: str, stored: str | Mapping[str, Any]) -> Job:
    """The job in JSON or fields. Raises RecordUnreadable."""
    try:
        return Job.model_validate_json(stored) if isinstance(stored, str) else Job.model_validate(stored)
    except ValidationError as error:
        raise RecordUnreadable(job_id, _faults(error)) from error


def _faults(error: ValidationError | PydanticSerializationError) -> str:
    """Where a record is wrong and why, without its values."""
    if isinstance(error, PydanticSerializationError):
        return "a value in it cannot be stored"
    details = error.errors(include_url=False, include_input=False, include_context=False)
    named = [f"{'.'.join(map(str, detail['loc'])) or 'record'}: {detail['msg']}" for detail in details]
    more = [f"and {len(named) - FAULTS_NAMED} more"] if len(named) > FAULTS_NAMED else []
    return "; ".join(named[:FAULTS_NAMED] + more)
