"""JobStore on Firestore. A Firestore trigger on created event documents wakes `fan_out`.

    training_jobs/{job_id}                the record; `lagging`: whether events wait to be published; `write_ids`
    training_jobs/{job_id}/events/{seq}   its events; `expire_at`: when Firestore may delete it
    idempotency_keys/{key_hash}           {job_id}
    tombstones/{job_id}                   {until, key_hash}

Every query that needs a composite index has it in firestore_indexes.json, which Terraform reads too.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from google.api_core.exceptions import Aborted, AlreadyExists, FailedPrecondition, NotFound
from google.api_core.retry import Retry, if_exception_type
from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter

from gemtune.errors import JobNotFound, JobWasDeleted, RecordUnreadable, VersionConflict
from gemtune.gcp.firestore_documents import (
    Snapshot,
    document_of,
    event_document_of,
    event_of,
    job_of,
    salvaged_from,
    summary_of,
    token_after,
)
from gemtune.jobs import changes, steps
from gemtune.jobs.events import Event
from gemtune.jobs.page_tokens import decode_page_token
from gemtune.jobs.record import FencingToken, Job, Progress
from gemtune.jobs.status import UNFINISHED, Status, is_final
from gemtune.jobs.stored import SHOWN_IN_LISTS
from gemtune.ports import Change, Clock, CreateResult, Page

log = logging.getLogger(__name__)

JOBS, EVENTS, KEYS, TOMBSTONES = "training_jobs", "events", "idempotency_keys", "tombstones"

# Seconds that one call may take, and for how long a write that loses a race is begun again.
CALL_SECONDS, RACE_SECONDS = 20.0, 60.0

# How many of the last writes a document knows: others may write between a lost answer and the repeated call.
WRITE_IDS = 20

Found = TypeVar("Found")


class FirestoreStore:
    def __init__(self, project_id: str, *, clock: Clock):
        self._project_id = project_id
        self._clock = clock

    @cached_property
    def _client(self) -> firestore.Client:
        return firestore.Client(project=self._project_id)

    def create(self, job: Job, event: Event) -> CreateResult:
        def once() -> CreateResult:
            taken = self._holder_of(job)
            if taken is not None:  # a repeated call finds what the first one wrote: a spec is of one request only
                ours = (taken.job_id, taken.spec_name) == (job.job_id, job.spec_name)
                return CreateResult(taken, is_new=ours)
            batch = self._client.batch()
            if job.parent_job_id is not None:
                parent = self._snapshot(job.parent_job_id)
                batch.update(parent.reference, {"version": firestore.Increment(1)})
            batch.create(self._job(job.job_id), document_of(job))
            batch.create(self._event(event), event_document_of(event))
            if job.key_hash is not None:
                batch.create(self._key(job.key_hash), {"job_id": job.job_id})
            batch.commit(timeout=CALL_SECONDS)
            return CreateResult(job, is_new=True)

        return _until_no_race(once)

    def find_by_key(self, key_hash: str) -> Job | None:
        key = self._key(key_hash).get(timeout=CALL_SECONDS)
        return self._there(key.get("job_id")) if key.exists else None

    def get(self, job_id: str) -> Job:
        return job_of(self._snapshot(job_id))

    def salvage(self, job_id: str) -> Job:
        return self._salvaged(self._snapshot(job_id))

    def update(self, job_id: str, change: Change, *, version: int | None = None, salvage: bool = False) -> Job:
        def decide(before: Job) -> changes.Changed:
            if version is not None and before.version != version:
                raise VersionConflict(f"job {job_id!r} is at version {before.version}, not {version}")
            after, events = change(before)
            if after is before:
                return before, ()
            return changes.with_next_version(after, before, at=self._clock.now()), events

        return self._change(job_id, decide, salvage=salvage)

    def record_progress(self, job_id: str, fence: FencingToken, progress: Progress | None, at: datetime) -> None:
        self._change(job_id, lambda job: (steps.record_heartbeat(job, fence, progress, at), ()))

    def mark_published(self, job_id: str, seq: int) -> None:
        def decide(job: Job) -> changes.Changed:
            return (job.model_copy(update={"published_seq": seq}) if seq > job.published_seq else job), ()

        self._change(job_id, decide)

    def page(self, *, status: Status | None, modality: str | None, limit: int, page_token: str | None) -> Page:
        query: Any = self._client.collection(JOBS)
        for field, value in (("status", status and status.value), ("modality", modality)):
            if value is not None:
                query = query.where(filter=FieldFilter(field, "==", value))
        newest_first = firestore.Query.DESCENDING
        query = query.order_by("created_at", direction=newest_first).order_by("job_id", direction=newest_first)
        if page_token is not None:
            query = query.start_after(asdict(decode_page_token(page_token)))
        found = list(query.select(SHOWN_IN_LISTS).limit(limit + 1).stream(timeout=CALL_SECONDS))
        more = len(found) > limit
        next_page_token = token_after(found[limit - 1]) if more else None
        return Page([summary_of(snapshot) for snapshot in found[:limit]], next_page_token)

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> Sequence[Event]:
        if not self._job(job_id).get(["version"], timeout=CALL_SECONDS).exists:
            raise JobNotFound(job_id)
        query = self._job(job_id).collection(EVENTS).where(filter=FieldFilter("seq", ">", after))
        found = query.order_by("seq").limit(limit).stream(timeout=CALL_SECONDS)
        return [event_of(job_id, snapshot) for snapshot in found]

    def unfinished(self) -> Iterator[Job]:
        query = self._client.collection(JOBS).where(filter=FieldFilter("status", "in", sorted(UNFINISHED)))
        for snapshot in list(query.order_by("created_at").stream(timeout=CALL_SECONDS)):
            try:
                yield job_of(snapshot)
            except RecordUnreadable as error:
                log.warning("%s", error)

    def unfinished_children(self, job_id: str) -> Sequence[str]:
        # One equality, which needs no index of its own; how many exports a job has is no number to page through.
        query = self._client.collection(JOBS).where(filter=FieldFilter("parent_job_id", "==", job_id))
        found = query.select(["status", "finished_at"]).stream(timeout=CALL_SECONDS)
        fields = {snapshot.id: snapshot.to_dict() or {} for snapshot in found}
        return sorted(id for id, job in fields.items() if not is_final(job.get("status", ""), job.get("finished_at")))

    def unpublished(self) -> Iterator[str]:
        query = self._client.collection(JOBS).where(filter=FieldFilter("lagging", "==", True)).select(["lagging"])
        yield from [snapshot.id for snapshot in query.stream(timeout=CALL_SECONDS)]

    def delete(self, job_id: str, *, version: int, tombstone_until: datetime) -> None:
        def once() -> None:
            snapshot = self._snapshot(job_id)
            job = self._salvaged(snapshot)
            if job.version != version:
                raise VersionConflict(f"job {job_id!r} is at version {job.version}, not {version}")
            batch = self._client.batch()
            for event in self._job(job_id).collection(EVENTS).select(["seq"]).stream(timeout=CALL_SECONDS):
                batch.delete(event.reference)  # deleting a document leaves what is below it
            batch.delete(snapshot.reference, option=self._unchanged(snapshot))
            batch.set(self._tombstone(job_id), {"until": tombstone_until, "key_hash": job.key_hash})
            batch.commit(timeout=CALL_SECONDS)

        _until_no_race(once)

    def was_deleted(self, job_id: str) -> bool:
        return bool(self._tombstone(job_id).get(timeout=CALL_SECONDS).exists)

    def tombstones(self, *, until_after: datetime) -> Iterator[str]:
        query = self._client.collection(TOMBSTONES).where(filter=FieldFilter("until", ">", until_after))
        yield from [snapshot.id for snapshot in query.stream(timeout=CALL_SECONDS)]

    def drop_tombstones(self, now: datetime) -> None:
        query = self._client.collection(TOMBSTONES).where(filter=FieldFilter("until", "<=", now))
        for snapshot in list(query.stream(timeout=CALL_SECONDS)):
            batch = self._client.batch()
            if (key_hash := snapshot.get("key_hash")) is not None:
                batch.delete(self._key(key_hash))
            batch.delete(snapshot.reference)
            batch.commit(timeout=CALL_SECONDS)

    # One write. A batch is atomic, and its preconditions say that nobody wrote since we read; unlike a transaction it
    # holds no lock on what it reads, so that of many who come at once none waits for another that waits for it.

    def _change(self, job_id: str, decide: Change, *, salvage: bool = False) -> Job:
        """Write what `decide` makes of the record, with its events; return it."""
        sent: list[tuple[str, Job]] = []

        def once() -> Job:
            snapshot = self._snapshot(job_id)
            written = (snapshot.to_dict() or {}).get("write_ids", [])
            for write_id, after in sent:
                if write_id in written:
                    return after  # the race was lost to ourselves: a repeated call finds what the first one wrote
            before = self._salvaged(snapshot) if salvage else job_of(snapshot)
            after, events = decide(before)
            if after is before:
                return before
            write_id = uuid.uuid4().hex
            sent.append((write_id, after))
            batch = self._client.batch()
            changed = document_of(after) | {"write_ids": [*written, write_id][-WRITE_IDS:]}
            batch.update(snapshot.reference, changed, option=self._unchanged(snapshot))
            for event in events:
                batch.create(self._event(event), event_document_of(event))
            batch.commit(timeout=CALL_SECONDS)
            return after

        return _until_no_race(once)

    def _salvaged(self, snapshot: Snapshot) -> Job:
        try:
            return job_of(snapshot)
        except RecordUnreadable:
            events = snapshot.reference.collection(EVENTS).order_by("seq", direction=firestore.Query.DESCENDING)
            newest = [event.get("seq") for event in events.limit(1).stream(timeout=CALL_SECONDS)]
            return salvaged_from(snapshot, newest[0] if newest else 0)

    def _unchanged(self, snapshot: Snapshot) -> Any:
        return self._client.write_option(last_update_time=snapshot.update_time)

    def _snapshot(self, job_id: str) -> Snapshot:
        snapshot = self._job(job_id).get(timeout=CALL_SECONDS)
        if not snapshot.exists:
            raise JobNotFound(job_id)
        return snapshot

    def _holder_of(self, job: Job) -> Job | None:
        """The job that has the key or the id of this one. Raises JobWasDeleted."""
        by_key = None if job.key_hash is None else self._key(job.key_hash).get(timeout=CALL_SECONDS)
        return self._there(by_key.get("job_id") if by_key is not None and by_key.exists else job.job_id)

    def _there(self, job_id: str) -> Job | None:
        if self.was_deleted(job_id):
            raise JobWasDeleted(job_id)
        try:
            return self.get(job_id)
        except JobNotFound:
            return None

    # Documents.

    def _job(self, job_id: str) -> firestore.DocumentReference:
        return self._client.collection(JOBS).document(_segment(job_id))

    def _event(self, event: Event) -> firestore.DocumentReference:
        found: firestore.DocumentReference = self._job(event.job_id).collection(EVENTS).document(str(event.seq))
        return found

    def _key(self, key_hash: str) -> firestore.DocumentReference:
        return self._client.collection(KEYS).document(_segment(key_hash))

    def _tombstone(self, job_id: str) -> firestore.DocumentReference:
        return self._client.collection(TOMBSTONES).document(_segment(job_id))


def _until_no_race(once: Callable[[], Found]) -> Found:
    """What `once` returns; again when somebody else wrote in between: then it wrote nothing."""
    races = if_exception_type(Aborted, AlreadyExists, FailedPrecondition, NotFound)
    return Retry(races, initial=0.02, multiplier=1.5, maximum=1.0, timeout=RACE_SECONDS)(once)()


def _segment(name: str) -> str:
    """Raises JobNotFound for what cannot be the name of a document: no job has it.

    https://firebase.google.com/docs/firestore/quotas#collections_documents_and_fields
    """
    reserved = name in ("", ".", "..") or (name.startswith("__") and name.endswith("__"))
    if reserved or "/" in name or len(name.encode(errors="replace")) > 1500 or not name.isprintable():
        raise JobNotFound(name)
    return name
