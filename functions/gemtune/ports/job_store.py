"""Store of job records and their events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gemtune.jobs.events import Event
from gemtune.jobs.page_tokens import PagePosition
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.record import FencingToken, Job, JobSummary
from gemtune.jobs.status import Status


@dataclass(frozen=True, slots=True)
class CreateResult:
    """Result of `JobStore.create`: a stored job, and whether it is new.

    `is_new` is False when `job` is an older job with the same idempotency key or id.
    """

    job: Job
    is_new: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a job list, newest first.

    `next_page_token` is None on the last page.
    """

    jobs: Sequence[JobSummary]
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Trace of a deleted job, which expires at `until`.

    They are sorted by `until` and `job_id`.
    """

    until: datetime
    job_id: str


# A pure function from the current job to the new job and the events to store with it. Returning the same object means
# that nothing is written. The store may call it several times, and it may raise to reject the change.
Change = Callable[[Job], tuple[Job, Sequence[Event]]]


class JobStore(Protocol):
    """Job records and their events. Every write is one transaction."""

    def create(self, job: Job, event: Event) -> CreateResult:
        """Store a new job, or return the one with its idempotency key or id.

        If the job has a parent, the parent's version is incremented too, so that a concurrent delete of the parent
        fails if it has not seen this child. Raises JobWasDeleted if the key or id belongs to a deleted job, and
        JobNotFound if the parent does not exist.
        """
        ...

    def get(self, job_id: str) -> Job:
        """Return a job. Raises JobNotFound, RecordUnreadable."""
        ...

    def find_by_key(self, key_hash: str) -> Job | None:
        """Return the job with this idempotency key, or None.

        Raises JobWasDeleted.
        """
        ...

    def salvage(self, job_id: str) -> Job:
        """Return a job even if its record is partly unreadable.

        Only for callers that end or delete the job. Raises JobNotFound.
        """
        ...

    def update(
        self,
        job_id: str,
        change: Change,
        *,
        version: int | None = None,
        salvage: bool = False,
        durable: bool = True,
    ) -> Job:
        """Change a job in one transaction and return the stored result.

        With `salvage`, an unreadable record is salvaged before the change and replaced by the result. Without
        `durable`, a power failure can lose the change, together with everything recorded later; that is for changes
        which are made again when they are lost.

        Raises JobNotFound; VersionConflict if `version` is not None and differs from the record's version;
        RecordUnreadable without `salvage`; RecordInvalid if the new record could not be read back; and whatever
        `change` raises.
        """
        ...

    def record_progress(self, job_id: str, fence: FencingToken, progress: Progress | None, at: datetime) -> Job:
        """Store a heartbeat and the progress of the running attempt.

        Returns the job, whose version stays the same. Raises JobNotFound, and StaleClaim or StaleAttempt if another
        execution or attempt has taken over.
        """
        ...

    def mark_published(self, job_id: str, seq: int) -> None:
        """Record that all events up to `seq` are published to job-status.

        A lower `seq` than the stored one changes nothing. The job's version stays.
        """
        ...

    def page(self, *, status: Status | None, modality: str | None, limit: int, page_token: str | None) -> Page:
        """Return one page of jobs, newest first.

        A record whose list fields are unreadable appears with the status `unknown`.
        """
        ...

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> Sequence[Event]:
        """Return up to `limit` events with a `seq` above `after`, in order.

        An unreadable event has the type `unknown`. Raises JobNotFound.
        """
        ...

    def unfinished(self, *, after: PagePosition | None = None) -> Iterator[Job]:
        """Yield every job that is not over, oldest first, from a position on.

        Skips unreadable records, and records whose status this version does not know: those belong to a newer version.
        """
        ...

    def children_in_need(self, job_id: str) -> Sequence[Job]:
        """Return this job's children with `needs_parent`, ordered by id."""
        ...

    def unpublished(self) -> Iterator[str]:
        """Yield the ids of jobs that have events not yet marked as published."""
        ...

    def delete(self, job_id: str, *, version: int, tombstone_until: datetime) -> None:
        """Delete a job's record and events, and leave a tombstone.

        The record may be unreadable. Raises JobNotFound, and VersionConflict if the record is not at `version`.
        """
        ...

    def was_deleted(self, job_id: str) -> bool:
        """Return whether there is a tombstone with this id."""
        ...

    def tombstones(self, *, until_after: datetime, after: Tombstone | None = None) -> Iterator[Tombstone]:
        """Yield the tombstones that expire after this time, in that order.

        after: yield only those behind this one. Reads no more than a page beyond what the caller takes.
        """
        ...

    def drop_tombstones(self, now: datetime, *, limit: int) -> int:
        """Delete up to `limit` expired tombstones and their idempotency keys.

        Returns the number of tombstones, which is 0 if none is left.
        """
        ...
