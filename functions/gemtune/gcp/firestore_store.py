"""Job store on Firestore.

    training_jobs/{job_id}                the record; `lagging`: whether events wait to be published; `write_ids`
    training_jobs/{job_id}/events/{seq}   its events; `expire_at`: when Firestore may delete the event
    idempotency_keys/{key_hash}           {job_id}
    tombstones/{job_id}                   {until, key_hash}

firestore_shared.py has the documents that several jobs share.

A Firestore trigger on new event documents runs `fan_out`. The composite indexes that the queries need are in
firestore_indexes.json, from which Terraform creates them.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from typing import Any

from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter

from gemtune.errors import JobNotFound, JobWasDeleted, RecordUnreadable, VersionConflict
from gemtune.gcp.firestore_documents import (
    EVENTS,
    JOBS,
    TOMBSTONES,
    References,
    Snapshot,
    document_of,
    event_document_of,
    event_of,
    job_of,
    read_all,
    salvaged,
    summary_of,
    text_of,
    token_after,
    write_ids_of,
)
from gemtune.gcp.firestore_writes import CALL_SECONDS, retry_conflicts
from gemtune.jobs import changes, steps
from gemtune.jobs.events import Event
from gemtune.jobs.page_tokens import PagePosition, decode_page_token
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.record import FencingToken, Job
from gemtune.jobs.status import UNFINISHED, Status
from gemtune.jobs.stored import SHOWN_IN_LISTS
from gemtune.ports import Change, Clock, CreateResult, Page, Tombstone

log = logging.getLogger(__name__)


# Number of write ids that a document keeps. Others may write between a call whose response was lost and its repetition.
WRITE_IDS = 20


class FirestoreStore:
    """`ports.JobStore` on Firestore.

    Each write is one atomic batch with preconditions. It fails if a document has changed since it was read, and is then
    retried on the new state. Unlike a transaction, this locks nothing, so concurrent writers never wait for each other.
    """

    def __init__(self, project_id: str, *, clock: Clock):
        self._project_id = project_id
        self._clock = clock

    @cached_property
    def _client(self) -> firestore.Client:
        return firestore.Client(project=self._project_id)

    @cached_property
    def _documents(self) -> References:
        return References(self._client)

    def create(self, job: Job, event: Event) -> CreateResult:
        """Store a new job, or return the one with its key or id."""

        def attempt() -> CreateResult:
            """Store the job once; raises Firestore's error on a conflict."""
            key = None if job.key_hash is None else self._documents.key(job.key_hash).get(timeout=CALL_SECONDS)
            existing = self._find_same(job, key)
            if existing is not None:
                # The job is new if an earlier attempt stored it and its response was lost. The spec's name shows
                # that, as each request has its own.
                is_ours = (existing.job_id, existing.spec_name) == (job.job_id, job.spec_name)
                return CreateResult(existing, is_new=is_ours)
            batch = self._client.batch()
            if job.parent_job_id is not None:
                parent = self._documents.read_job(job.parent_job_id)
                batch.update(parent.reference, {"version": firestore.Increment(1)})
            batch.create(self._documents.job(job.job_id), document_of(job))
            batch.create(self._documents.event(event), event_document_of(event))
            if key is not None and key.exists:  # it names no job
                batch.update(key.reference, {"job_id": job.job_id}, option=self._unchanged(key))
            elif key is not None:
                batch.create(key.reference, {"job_id": job.job_id})
            batch.commit(timeout=CALL_SECONDS)
            return CreateResult(job, is_new=True)

        return retry_conflicts(attempt)

    def find_by_key(self, key_hash: str) -> Job | None:
        """Return the job that an idempotency key's document names, or None."""
        key = self._documents.key(key_hash).get(timeout=CALL_SECONDS)
        job_id = text_of(key, "job_id")
        return None if job_id is None else self._find(job_id)

    def get(self, job_id: str) -> Job:
        """Return a job. Raises JobNotFound, RecordUnreadable."""
        return job_of(self._documents.read_job(job_id))

    def salvage(self, job_id: str) -> Job:
        """Return a job even if its record is partly unreadable."""
        return salvaged(self._documents.read_job(job_id))

    def update(
        self,
        job_id: str,
        change: Change,
        *,
        version: int | None = None,
        salvage: bool = False,
        durable: bool = True,
    ) -> Job:
        """Apply `change` and store the result with its events; always durable."""

        def decide(before: Job) -> changes.Changed:
            """Check the version, apply `change`, and stamp its result."""
            if version is not None and before.version != version:
                raise VersionConflict(f"job {job_id!r} is at version {before.version}, not {version}")
            after, events = change(before)
            if after is before:
                return before, ()
            return changes.with_next_version(after, before, at=self._clock.now()), events

        return self._change(job_id, decide, salvage=salvage)

    def record_progress(self, job_id: str, fence: FencingToken, progress: Progress | None, at: datetime) -> Job:
        """Store a heartbeat and the progress of the running attempt."""
        return self._change(job_id, lambda job: (steps.record_heartbeat(job, fence, progress, at), ()))

    def mark_published(self, job_id: str, seq: int) -> None:
        """Record that the events up to `seq` are published."""

        def decide(job: Job) -> changes.Changed:
            """Set `published_seq`, unless it is higher already."""
            return (job.model_copy(update={"published_seq": seq}) if seq > job.published_seq else job), ()

        self._change(job_id, decide)

    def page(self, *, status: Status | None, modality: str | None, limit: int, page_token: str | None) -> Page:
        """Return one page of jobs, newest first, ordered by time and id."""
        query: Any = self._client.collection(JOBS)
        for field, value in (("status", status and status.value), ("modality", modality)):
            if value is not None:
                query = query.where(filter=FieldFilter(field, "==", value))
        newest_first = firestore.Query.DESCENDING
        query = query.order_by("created_at", direction=newest_first).order_by("job_id", direction=newest_first)
        if page_token is not None:
            query = query.start_after(asdict(decode_page_token(page_token)))
        snapshots = list(query.select(SHOWN_IN_LISTS).limit(limit + 1).stream(timeout=CALL_SECONDS))
        more = len(snapshots) > limit
        next_page_token = token_after(snapshots[limit - 1]) if more else None
        return Page([summary_of(snapshot) for snapshot in snapshots[:limit]], next_page_token)

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> Sequence[Event]:
        """Return up to `limit` events after the number `after`."""
        if not self._documents.job(job_id).get(["version"], timeout=CALL_SECONDS).exists:
            raise JobNotFound(job_id)
        query = self._documents.job(job_id).collection(EVENTS).where(filter=FieldFilter("seq", ">", after))
        snapshots = query.order_by("seq").limit(limit).stream(timeout=CALL_SECONDS)
        return [event_of(job_id, snapshot) for snapshot in snapshots]

    def unfinished(self, *, after: PagePosition | None = None) -> Iterator[Job]:
        """Yield unfinished jobs, oldest first; skip unreadable ones.

        Reads them in pages, so that a caller that stops early has not read all of them.
        """
        query: Any = self._client.collection(JOBS).where(filter=FieldFilter("status", "in", sorted(UNFINISHED)))
        start = (
            None if after is None else {"created_at": after.created_at, "__name__": self._documents.job(after.job_id)}
        )
        for snapshot in read_all(query, "created_at", start):
            try:
                yield job_of(snapshot)
            except RecordUnreadable as error:
                log.warning("%s", error)

    def children_in_need(self, job_id: str) -> Sequence[Job]:
        """Return a job's children that need it, by id."""
        # A filter on one field needs no composite index. All children are read, since few jobs have many.
        query = self._client.collection(JOBS).where(filter=FieldFilter("parent_job_id", "==", job_id))
        children = [salvaged(snapshot) for snapshot in read_all(query)]
        return sorted((child for child in children if child.needs_parent), key=lambda child: child.job_id)

    def unpublished(self) -> Iterator[str]:
        """Yield the ids of jobs with unpublished events."""
        query = self._client.collection(JOBS).where(filter=FieldFilter("lagging", "==", True)).select(["lagging"])
        yield from (snapshot.id for snapshot in read_all(query))

    def delete(self, job_id: str, *, version: int, tombstone_until: datetime) -> None:
        """Delete a job's documents and leave a tombstone, in one batch."""

        def attempt() -> None:
            """Delete once; raises Firestore's error on a conflict."""
            snapshot = self._documents.read_job(job_id)
            job = salvaged(snapshot)
            if job.version != version:
                raise VersionConflict(f"job {job_id!r} is at version {job.version}, not {version}")
            batch = self._client.batch()
            for event in self._documents.job(job_id).collection(EVENTS).select(["seq"]).stream(timeout=CALL_SECONDS):
                batch.delete(event.reference)  # deleting a document does not delete its subcollections
            batch.delete(snapshot.reference, option=self._unchanged(snapshot))
            batch.set(self._documents.tombstone(job_id), {"until": tombstone_until, "key_hash": job.key_hash})
            batch.commit(timeout=CALL_SECONDS)

        retry_conflicts(attempt)

    def was_deleted(self, job_id: str) -> bool:
        """Return whether there is a tombstone with this id."""
        return bool(self._documents.tombstone(job_id).get(timeout=CALL_SECONDS).exists)

    def tombstones(self, *, until_after: datetime, after: Tombstone | None = None) -> Iterator[Tombstone]:
        """Yield the tombstones that expire after this time, page by page."""
        query: Any = self._client.collection(TOMBSTONES).where(filter=FieldFilter("until", ">", until_after))
        start = None if after is None else {"until": after.until, "__name__": self._documents.tombstone(after.job_id)}
        for snapshot in read_all(query.select(["until"]), "until", start):
            yield Tombstone(snapshot.get("until"), snapshot.id)

    def drop_tombstones(self, now: datetime, *, limit: int) -> int:
        """Delete some expired tombstones and their keys, in one batch."""
        query = self._client.collection(TOMBSTONES).where(filter=FieldFilter("until", "<=", now)).limit(limit)
        expired = list(query.stream(timeout=CALL_SECONDS))
        if not expired:
            return 0
        batch = self._client.batch()
        for snapshot in expired:
            if (key_hash := text_of(snapshot, "key_hash")) is not None:
                batch.delete(self._documents.key(key_hash))
            batch.delete(snapshot.reference)
        batch.commit(timeout=CALL_SECONDS)
        return len(expired)

    def _change(self, job_id: str, decide: Change, *, salvage: bool = False) -> Job:
        """Apply `decide` to a job, store the result, and return it.

        The events are stored in the same batch. Repeats all of it if another writer comes in between.
        """
        attempted: list[tuple[str, Job]] = []

        def attempt() -> Job:
            """Read, decide and write once; raises on a conflict."""
            snapshot = self._documents.read_job(job_id)
            stored_ids = write_ids_of(snapshot)
            for write_id, after in attempted:
                if write_id in stored_ids:
                    return after  # an earlier attempt was stored, but its response was lost
            before = salvaged(snapshot) if salvage else job_of(snapshot)
            after, events = decide(before)
            if after is before:
                return before
            write_id = uuid.uuid4().hex
            attempted.append((write_id, after))
            batch = self._client.batch()
            document = document_of(after) | {"write_ids": [*stored_ids, write_id][-WRITE_IDS:]}
            batch.update(snapshot.reference, document, option=self._unchanged(snapshot))
            for event in events:
                batch.create(self._documents.event(event), event_document_of(event))
            batch.commit(timeout=CALL_SECONDS)
            return after

        return retry_conflicts(attempt)

    def _unchanged(self, snapshot: Snapshot) -> Any:
        """Return the precondition that a document is as in this snapshot."""
        return self._client.write_option(last_update_time=snapshot.update_time)

    def _find_same(self, job: Job, key: Snapshot | None) -> Job | None:
        """Return the stored job with this job's key or id, or None.

        key: document of its idempotency key, if it has one. Raises JobWasDeleted.
        """
        named = None if key is None else text_of(key, "job_id")
        return (None if named is None else self._find(named)) or self._find(job.job_id)

    def _find(self, job_id: str) -> Job | None:
        """Return a job, or None if it never existed. Raises JobWasDeleted."""
        try:
            if self.was_deleted(job_id):
                raise JobWasDeleted(job_id)
            return self.get(job_id)
        except JobNotFound:
            return None
