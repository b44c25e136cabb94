"""Documents of the job store: references, reading, conversion of records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.cloud import firestore

from gemtune.errors import JobNotFound, RecordUnreadable
from gemtune.gcp.firestore_writes import CALL_SECONDS
from gemtune.jobs import stored
from gemtune.jobs.events import Event
from gemtune.jobs.page_tokens import PagePosition, encode_page_token
from gemtune.jobs.record import Job, JobSummary
from gemtune.jobs.salvage import salvage_job

JOBS, EVENTS, KEYS, TOMBSTONES = "training_jobs", "events", "idempotency_keys", "tombstones"
# Documents that one call reads of results without a bound. All calls have a time limit.
PAGE_OF_RESULTS = 200
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


def salvaged(snapshot: Snapshot) -> Job:
    """Return the job in a document, or its readable part."""
    try:
        return job_of(snapshot)
    except RecordUnreadable:
        events = snapshot.reference.collection(EVENTS).order_by("seq", direction=firestore.Query.DESCENDING)
        newest = [event.get("seq") for event in events.limit(1).stream(timeout=CALL_SECONDS)]
    fields = _fields(snapshot)
    numbers = [number for number in (fields.get("last_seq"), *newest, 0) if isinstance(number, int)]
    facts = {"job_id": snapshot.id, "created_at": _created_at(snapshot), "last_seq": max(numbers)}
    return salvage_job(fields, facts)


def text_of(snapshot: Snapshot, field: str) -> str | None:
    """Return a field of a document; None if it is missing or no text."""
    value = (snapshot.to_dict() or {}).get(field)
    return value if isinstance(value, str) and value else None


def write_ids_of(snapshot: Snapshot) -> list[str]:
    """Return the ids of the newest writes of a job's document."""
    stored = (snapshot.to_dict() or {}).get("write_ids")
    return [each for each in stored if isinstance(each, str)] if isinstance(stored, list) else []


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


def read_all(query: Any, order: str | None = None, after: Mapping[str, Any] | None = None) -> Iterator[Snapshot]:
    """Yield all results of a query.

    Reads them in pages, so that a caller that stops early has not read all of them.
    order: field that sorts the results; those with equal values are sorted by name, like all without it. after:
    position behind which they begin.
    """
    fields = [name for name in (order, "__name__") if name is not None]
    for name in fields:
        query = query.order_by(name)
    while True:
        page = query if after is None else query.start_after(after)
        snapshots = list(page.limit(PAGE_OF_RESULTS).stream(timeout=CALL_SECONDS))
        yield from snapshots
        if len(snapshots) < PAGE_OF_RESULTS:
            return
        last = snapshots[-1]
        after = {name: last.reference if name == "__name__" else last.get(name) for name in fields}


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


@dataclass(frozen=True, slots=True)
class References:
    """References to the documents of the job store, without a request.

    A name that no document can have raises JobNotFound.
    """

    client: firestore.Client

    def job(self, job_id: str) -> firestore.DocumentReference:
        """Return a job's record."""
        return self.client.collection(JOBS).document(document_id(job_id))

    def event(self, event: Event) -> firestore.DocumentReference:
        """Return one event of a job."""
        reference: firestore.DocumentReference = self.job(event.job_id).collection(EVENTS).document(str(event.seq))
        return reference

    def key(self, key_hash: str) -> firestore.DocumentReference:
        """Return the job of an idempotency key."""
        return self.client.collection(KEYS).document(document_id(key_hash))

    def tombstone(self, job_id: str) -> firestore.DocumentReference:
        """Return what is left of a deleted job."""
        return self.client.collection(TOMBSTONES).document(document_id(job_id))

    def read_job(self, job_id: str) -> Snapshot:
        """Read a job's document. Raises JobNotFound."""
        snapshot: Snapshot = self.job(job_id).get(timeout=CALL_SECONDS)
        if not snapshot.exists:
            raise JobNotFound(job_id)
        return snapshot


def document_id(name: str) -> str:
    """Return a name unchanged if Firestore allows it as a document's id.

    Raises JobNotFound otherwise, since no job can have it. The rules:
    https://firebase.google.com/docs/firestore/quotas#collections_documents_and_fields
    """
    reserved = name in ("", ".", "..") or (name.startswith("__") and name.endswith("__"))
    if reserved or "/" in name or len(name.encode(errors="replace")) > 1500 or not name.isprintable():
        raise JobNotFound(name)
    return name
