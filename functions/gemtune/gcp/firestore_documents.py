"""Documents of the job store on Firestore: how records and events are written into them, and read out of them."""

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

# How long an event is kept: by a TTL policy on `expire_at`, which Terraform makes.
EVENTS_KEPT = timedelta(days=400)
# Fields of a document that are no part of the record.
OURS = ("lagging", "write_ids")
LAST_TIME = datetime.max.replace(tzinfo=UTC)

Snapshot = firestore.DocumentSnapshot[Any]


def document_of(job: Job) -> dict[str, Any]:
    """The document of a record. Raises RecordInvalid."""
    fields: dict[str, Any] = _plain(stored.to_fields(job))
    return fields | {"lagging": job.published_seq < job.last_seq, "write_ids": []}


def job_of(snapshot: Snapshot) -> Job:
    """The record in a document. Raises RecordUnreadable."""
    return stored.read(snapshot.id, _fields(snapshot))


def salvaged_from(snapshot: Snapshot, newest_event: int) -> Job:
    """What can be read of a record that cannot be; `newest_event` is the number of the last event that is stored."""
    fields = _fields(snapshot)
    numbers = [number for number in (fields.get("last_seq"), newest_event) if isinstance(number, int)]
    facts = {"job_id": snapshot.id, "created_at": _created_at(snapshot), "last_seq": max(numbers)}
    return salvage_job(fields, facts)


def summary_of(snapshot: Snapshot) -> JobSummary:
    """The row of a list."""
    fields = _fields(snapshot)
    modality = str(fields.get("modality", ""))
    return stored.summary(snapshot.id, fields, modality=modality, created_at=_created_at(snapshot))


def token_after(snapshot: Snapshot) -> str:
    """The token of the page that begins after this job."""
    created_at = snapshot.get("created_at")
    # What is no time comes before all times where the newest ones do, and the page after it begins with the first time.
    return encode_page_token(PagePosition(created_at if isinstance(created_at, datetime) else LAST_TIME, snapshot.id))


def event_document_of(event: Event) -> dict[str, Any]:
    """The document of an event."""
    fields: dict[str, Any] = _plain(event.model_dump())
    return fields | {"expire_at": event.at + EVENTS_KEPT}


def event_of(job_id: str, snapshot: Snapshot) -> Event:
    """The event in a document; `unknown` where it cannot be read."""
    fields = {name: value for name, value in (snapshot.to_dict() or {}).items() if name != "expire_at"}
    return stored.read_event(job_id, fields["seq"], fields, created_at=snapshot.create_time)


def _fields(snapshot: Snapshot) -> dict[str, Any]:
    return {name: value for name, value in (snapshot.to_dict() or {}).items() if name not in OURS}


def _created_at(snapshot: Snapshot) -> datetime:
    """When the job was created, by its record if that says so."""
    created_at = _fields(snapshot).get("created_at", snapshot.create_time)
    return created_at if isinstance(created_at, datetime) else snapshot.create_time


def _plain(value: Any) -> Any:
    """Without the subclasses that Firestore's encoder does not know; times stay times."""
    match value:
        case str():
            return str(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value
