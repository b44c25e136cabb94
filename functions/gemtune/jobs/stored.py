"""Conversion of records to what stores hold: JSON, or a dictionary of fields.

Records are validated before they are written, and may have been written by any version when they are read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from gemtune.errors import RecordInvalid, RecordUnreadable
from gemtune.jobs.events import Event
from gemtune.jobs.record import Job, JobSummary
from gemtune.jobs.status import Status

log = logging.getLogger(__name__)

# Number of records that were read or written last, which are parsed already.
RECORDS_KEPT = 32
# Number of invalid fields that an error names; the others are often of the same kind.
FAULTS_NAMED = 3


def to_json(job: Job) -> str:
    """Return the record as JSON.

    Raises RecordInvalid, since `model_copy` does not validate what it changes.
    """
    try:
        text = job.model_dump_json(warnings="none")
        _parsed(text)
    except (ValidationError, PydanticSerializationError) as error:
        raise RecordInvalid(job.job_id, _faults(error)) from error
    return text


def to_fields(job: Job) -> dict[str, Any]:
    """Return the record as a dictionary, in which times stay datetime objects.

    Raises RecordInvalid.
    """
    fields = job.model_dump(warnings="none")
    try:
        Job.model_validate(fields)
    except ValidationError as error:
        raise RecordInvalid(job.job_id, _faults(error)) from error
    return fields


def read(job_id: str, stored: str | Mapping[str, Any]) -> Job:
    """Read a job from JSON or fields. Raises RecordUnreadable."""
    try:
        job = _parsed(stored) if isinstance(stored, str) else Job.model_validate(stored)
    except ValidationError as error:
        raise RecordUnreadable(job_id, _faults(error)) from error
    if job.job_id != job_id:  # what is done to it would be done to the other job
        raise RecordUnreadable(job_id, "job_id: it is the id of another job")
    return job


@lru_cache(maxsize=RECORDS_KEPT)
def _parsed(text: str) -> Job:
    """Return the record in a JSON text. Raises ValidationError.

    A record is read several times between two changes of it, and nothing changes a record in place.
    """
    return Job.model_validate_json(text)


# Fields of a record that the list of jobs shows. The job_id is the store's own key.
SHOWN_IN_LISTS = tuple(name for name in JobSummary.model_fields if name != "job_id")


def summary(job_id: str, shown: Mapping[str, Any], *, modality: str, created_at: datetime) -> JobSummary:
    """Return a job's entry in the list of jobs.

    shown: the record's fields SHOWN_IN_LISTS.

    The rest of the record is not looked at. If one of these fields cannot be read, the entry has status `unknown` and
    only what the store knows by itself: id, modality and time.
    """
    try:
        row = JobSummary.model_validate({name: shown.get(name) for name in SHOWN_IN_LISTS} | {"job_id": job_id})
        row.model_dump_json()
        return row
    except (ValidationError, PydanticSerializationError):
        return JobSummary(
            job_id=job_id,
            job_name="",
            status=Status.UNKNOWN,
            modality=modality,
            base_model_id="",
            created_at=created_at,
        )


def read_event(job_id: str, seq: int, stored: str | Mapping[str, Any], *, created_at: datetime) -> Event:
    """Read an event of a job.

    One that cannot be read becomes an event of type `unknown` with the same number, so that later events are still
    delivered. Its time is then that of the job's creation.
    """
    try:
        return Event.model_validate_json(stored) if isinstance(stored, str) else Event.model_validate(stored)
    except ValidationError as error:
        log.warning("event %d of job %s cannot be read: %s", seq, job_id, _faults(error))
        return Event(job_id=job_id, seq=seq, type="unknown", status=Status.UNKNOWN, at=created_at)


def _faults(error: ValidationError | PydanticSerializationError) -> str:
    """Return where a record is invalid and why, without repeating its values."""
    if isinstance(error, PydanticSerializationError):
        return "a value in it cannot be stored"
    details = error.errors(include_url=False, include_input=False, include_context=False)
    named = [f"{'.'.join(map(str, detail['loc'])) or 'record'}: {detail['msg']}" for detail in details]
    more = [f"and {len(named) - FAULTS_NAMED} more"] if len(named) > FAULTS_NAMED else []
    return "; ".join(named[:FAULTS_NAMED] + more)
