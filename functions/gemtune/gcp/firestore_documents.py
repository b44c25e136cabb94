"""Conversion between job records, events and their Firestore documents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from google.cloud import firestore

from gemtune.jobs import stored
from gemtune.jobs.events import Event
from gemtune.jobs.page_tokens import PagePosition, encode_page_token
from gemtune.jobs.record import Job, JobSummary
from gemtune.jobs.salvage import salvage_job

# Retention of events, by a TTL policy on the field `expire_at`, which Terraform creates.
EVENT_RETENTION = timedelta(days=400)
# Fields of a job's document that are not fields of the record.
STORE_FIELDS = ("lagging", "write_ids")
LAST_TIME = datetime.max.replace(tzinfo=UTC)

Snapshot = firestore.DocumentSnapshot[Any]


def document_of(job: Job) -> dict[str, Any]:
    """Return the document to store for a job. Raises RecordInvalid."""
    fields: dict[str, Any] = _plain(stored.to_fields(job))
    return fields | {"lagging": job.published_seq < job.last_seq, "write_ids": []}


def job_of(snapshot: Snapshot) -> Job:
    """Return the job in a document. Raises RecordUnreadable."""
    return stored.read(snapshot.id, _fields(snapshot))


def salvaged_from(snapshot: Snapshot, newest_event: int) -> Job:
    """Return the readable part of an unreadable job.

    `newest_event` is the number (`seq`) of the last stored event, 0 if there is none.
    """
    fields = _fields(snapshot)
    numbers = [number for number in (fields.get("last_seq"), newest_event) if isinstance(number, int)]
    facts = {"job_id": snapshot.id, "created_at": _created_at(snapshot), "last_seq": max(numbers)}
    return salvage_job(fields, facts)


def summary_of(snapshot: Snapshot) -> JobSummary:
    """Return a job as lists show it; it may be unreadable."""
    fields = _fields(snapshot)
    modality = str(fields.get("modality", ""))
    return stored.summary(snapshot.id, fields, modality=modality, created_at=_created_at(snapshot))


def token_after(snapshot: Snapshot) -> str:
    """Return the token of the page that begins after this job."""
    created_at = snapshot.get("created_at")
    # In descending order, Firestore sorts values that are not times before all times. The page after such a job
    # therefore begins with the latest time.
    return encode_page_token(PagePosition(created_at if isinstance(created_at, datetime) else LAST_TIME, snapshot.id))


def event_document_of(event: Event) -> dict[str, Any]:
    """Return the document to store for an event."""
    fields: dict[str, Any] = _plain(event.model_dump())
    return fields | {"expire_at": event.at + EVENT_RETENTION}


def event_of(job_id: str, snapshot: Snapshot) -> Event:
    """Return the event in a document, or an `unknown` one if unreadable."""
    fields = {name: value for name, value in (snapshot.to_dict() or {}).items() if name != "expire_at"}
    return stored.read_event(job_id, fields["seq"], fields, created_at=snapshot.create_time)


def _fields(snapshot: Snapshot) -> dict[str, Any]:
    return {name: value for name, value in (snapshot.to_dict() or {}).items() if name not in STORE_FIELDS}


def _created_at(snapshot: Snapshot) -> datetime:
    """Return when a job was created: by its record, or else by its document."""
    created_at = _fields(snapshot).get("created_at", snapshot.create_time)
    return created_at if isinstance(created_at, datetime) else snapshot.create_time


def _plain(value: Any) -> Any:
    """Convert subclasses of str, dict and list to their base types.

    Firestore's client encodes no others. Other values, such as times, stay as they are.
    """
    match value:
        case str():
            return str(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
