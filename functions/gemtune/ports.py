"""Interfaces to the platform: jobs, messages, objects, secrets, workflows.

`embedded/` implements them for one workstation and `gcp/` for Google Cloud. No other code knows which of the two runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from gemtune.jobs.events import Event
from gemtune.jobs.page_tokens import PagePosition
from gemtune.jobs.record import FencingToken, Job, JobSummary, Progress
from gemtune.jobs.status import Status

if TYPE_CHECKING:
    import flask


class Clock(Protocol):
    """Source of the current time; tests replace it with one they can set."""

    def now(self) -> datetime:
        """Return the current time, aware and in UTC. It can go backwards."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards, to measure durations.

        Values are comparable only within one process.
        """
        ...


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

    def update(self, job_id: str, change: Change, *, version: int | None = None, salvage: bool = False) -> Job:
        """Change a job in one transaction and return the stored result.

        With `salvage`, an unreadable record is salvaged before the change and replaced by the result.

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


class CheckRunner(Protocol):
    """Runner of checks of datasets, which the trainer carries out."""

    def start(self, dataset_id: str, check_id: str) -> None:
        """Start a check, whose record is in the data bucket.

        Returns without waiting for its end. Raises TooManyChecks.
        """
        ...

    def is_running(self, dataset_id: str, check_id: str) -> bool:
        """Return whether a check was started and has not ended."""
        ...


class SharedDocuments(Protocol):
    """Small documents by name that several jobs share.

    A document is a text of at most 500 KB. Names consist of letters, digits, `-`, `_`, `.` and `/`.
    """

    def read(self, name: str) -> str | None:
        """Return a document's text, or None if there is no such document."""
        ...

    def update(self, name: str, change: Callable[[str | None], str | None]) -> str | None:
        """Change a document in one transaction and return the stored text.

        `change` gets the text, or None if there is no such document. Returning an equal text means that nothing is
        written, and returning None that the document is deleted. The store may call `change` several times.
        """
        ...

    def names(self, prefix: str, *, before: str | None = None) -> Iterator[str]:
        """Yield the names that begin with `prefix`, sorted.

        before: where they end; names from this one on are left out, and not read.
        """
        ...


class Topic(StrEnum):
    """Names of the Pub/Sub topics."""

    JOB_REQUESTS = "job-requests"
    JOB_STATUS = "job-status"
    WEBHOOKS = "webhooks"


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One pulled message.

    It is redelivered unless `ack_id` is acknowledged in time.
    """

    ack_id: str
    message_id: str
    message: bytes
    attributes: Mapping[str, str]
    ordering_key: str


class Bus(Protocol):
    """Message bus with at-least-once delivery."""

    def publish(
        self,
        topic: Topic,
        message: bytes,
        *,
        attributes: Mapping[str, str] | None = None,
        ordering_key: str = "",
        durable: bool = True,
    ) -> str:
        """Publish a message and return its id.

        With `durable`, the message is on disk on return. Without it, a power failure can lose the message, together
        with everything recorded later; that is for messages which are published again when they are lost.
        """
        ...

    def subscribe(self, name: str, topic: Topic) -> None:
        """Create a durable pull subscription unless it exists.

        It receives all messages published from now on. Raises ValueError if the name belongs to a subscription of
        another topic.
        """
        ...

    def pull(self, name: str, limit: int, *, wait_seconds: float = 0.0) -> list[ReceivedMessage]:
        """Return up to `limit` due messages, in order per ordering key.

        If none is due, wait for one; return an empty list after `wait_seconds` or a little later.
        """
        ...

    def ack(self, name: str, ack_ids: Sequence[str]) -> None:
        """Acknowledge pulled messages so that they are not redelivered."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """Name, size and modification time of an object."""

    name: str
    bytes: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """Address that reads one object without credentials.

    Either a URL, which is valid for one hour, or a path on this machine.
    """

    url: str | None = None
    path: str | None = None


# Objects that are read whole into memory are small. The largest is a loss history, with one line per train_step.
MAX_READ_BYTES = 256 * 1024 * 1024


class Objects(Protocol):
    """Objects of one bucket, by name.

    Names are relative and separated by `/`; `.`, `..`, empty parts and control characters raise UnsafeName. Methods
    that write raise CannotStore if the disk is full or read-only.

    If objects are files, every method follows symbolic links that stay inside the bucket, except that deleting removes
    the link itself. A link that leads out of the bucket or forms a cycle raises UnsafeName, from `list` too.
    """

    bucket: str
    digest_algorithm: Literal["sha256", "crc32c"]

    def read(self, name: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return an object's content.

        Raises ObjectNotFound, and Unreadable with the code `too_large` above `max_bytes`.
        """
        ...

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes of an object from offset `start`.

        Raises ObjectNotFound.
        """
        ...

    def create(self, name: str, content: bytes) -> None:
        """Write a new object, atomically. Raises ObjectExists."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object, atomically."""
        ...

    def stat(self, name: str) -> ObjectStat | None:
        """Return an object's size and modification time, or None."""
        ...

    def generation(self, name: str) -> str | None:
        """Return a string that differs after each write of the object.

        Returns None if the object does not exist.
        """
        ...

    def digest(self, name: str) -> str:
        """Return `<digest_algorithm>:<digest>` of an object's content.

        Equal content has equal digests. A store of files reads the whole file for it. Raises ObjectNotFound.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Yield the objects whose names begin with `prefix`, sorted by name."""
        ...

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the folders in a folder, by name.

        They are the next parts of the names of objects that begin with `prefix`, which ends with a slash.
        """
        ...

    def join(self, parts: Sequence[str], name: str) -> None:
        """Write or replace an object by the contents of others.

        parts: names of at least one object, in order. All of them exist, and stay.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete an object if it exists."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object whose name begins with `prefix`."""
        ...

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file to an object, without loading it into memory."""
        ...

    def fetch(self, name: str, into: Path, *, in_place: bool = False) -> Path:
        """Return a local path to read an object from.

        It is the object's own file, or a copy in the folder `into`; treat it as read-only. Raises ObjectNotFound.
        in_place: whether a file that is read over the network will do, without a copy; for large files that are read
        once or twice.
        """
        ...

    def fetch_folder(self, prefix: str, into: Path, *, in_place: bool = False) -> Path:
        """Return a local folder with all objects below `prefix/`.

        It is the objects' own folder, or a copy at `into`; treat it as read-only. Raises ObjectNotFound if there is no
        such object. in_place: see `fetch`.
        """
        ...

    def mark_used(self, prefix: str, at: datetime) -> None:
        """Note that the objects below `prefix/` were used now.

        The backend may delete objects of the folder of base models that were not used for long.
        """
        ...

    def remove_unfinished(self, before: datetime) -> None:
        """Delete temporary files that crashed writers left before this time."""
        ...

    def uri(self, name: str) -> str:
        """Return an object's location for users: a path or `gs://…`."""
        ...

    def link(self, name: str) -> Link:
        """Return a link to read an object, which may not exist.

        Raises NoSignedLinks.
        """
        ...


@dataclass(frozen=True, slots=True)
class Buckets:
    """The four buckets of a deployment.

    config: job specs. data: datasets. uploads: job files. export: everything a job writes, below `jobs/<job_id>/`.
    """

    config: Objects
    data: Objects
    uploads: Objects
    export: Objects

    def named(self, bucket: str) -> Objects | None:
        """Return the bucket with this name, or None if it is none of the four."""
        return next((b for b in (self.config, self.data, self.uploads, self.export) if b.bucket == bucket), None)


@dataclass(frozen=True, slots=True)
class SecretStat:
    """Name and creation time of a secret."""

    name: str
    created_at: datetime


class Secrets(Protocol):
    """Tokens by name. No other code stores or reads their values."""

    def create(self, name: str, value: str, *, ttl: timedelta | None) -> None:
        """Store or replace a value that expires after `ttl`, or never."""
        ...

    def create_once(self, name: str, value: str) -> str:
        """Store a value unless the name has one; return the stored value.

        The value never expires. Of several concurrent callers, the first one's value is stored and all of them get it.
        """
        ...

    def read(self, name: str) -> str:
        """Return a value.

        Raises SecretNotFound if there is none or it has expired.
        """
        ...

    def renew(self, name: str, *, ttl: timedelta) -> None:
        """Make a secret expire `ttl` from now. Raises SecretNotFound."""
        ...

    def delete(self, name: str) -> None:
        """Delete a secret if it exists."""
        ...

    def list(self, prefix: str) -> Iterator[SecretStat]:
        """Yield the secrets whose names begin with `prefix`."""
        ...


@dataclass(frozen=True, slots=True)
class LogLine:
    """Line of output.

    at: when it was written; None if only its text says that.
    """

    at: datetime | None
    text: str


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines of output of one execution.

    position: where the next ones begin.
    """

    lines: Sequence[LogLine]
    position: str


class Logs(Protocol):
    """Output of the executions that ran a job's steps, without tokens."""

    def executions(self, job: Job) -> Sequence[str]:
        """Return the executions of a job's steps, oldest first."""
        ...

    def read(self, job_id: str, execution: str, *, position: str, limit: int, is_over: bool) -> LogLines:
        """Return up to `limit` lines of an execution from a position on.

        The empty position is the beginning. is_over: whether no more output will come. A call returns lines unless
        there are no more for now; of long ones fewer, with some hundred kilobytes together. Raises BadPageToken for a
        position that is none, NoLogs, and LogsBusy.
        """
        ...


class ExecutionState(StrEnum):
    """States of a workflow execution.

    GONE: the platform does not know the execution any more.
    """

    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"


class Launcher(Protocol):
    """Starts and stops workflow executions and stops executions of steps."""

    def start(self, job_id: str, launch: int) -> str:
        """Start the workflow for a job's launch and return the execution.

        A second call for the same launch returns the same execution.
        """
        ...

    def state(self, execution: str) -> ExecutionState:
        """Return the state of a workflow execution."""
        ...

    def stop(self, execution: str) -> None:
        """Cancel a workflow execution if it is still running."""
        ...

    def stop_step(self, execution: str) -> None:
        """Stop the execution of a step if it is still running.

        The Cloud Run execution or child process gets SIGTERM, and SIGKILL some seconds later.
        """
        ...

    def stop_steps(self, cloud_run_job: str, job_id: str) -> None:
        """Stop all executions of a Cloud Run job that run a step of this job.

        Those that have not begun yet are stopped too.
        """
        ...


class Callers(Protocol):
    """Identification of the callers of the HTTP API."""

    def check(self, request: flask.Request) -> None:
        """Reject a request that must not reach the API.

        Called before anything else of the request is read. Raises NotFromHere.
        """
        ...

    def owner(self, request: flask.Request) -> str:
        """Return the owner of the jobs that this request creates."""
        ...


@dataclass(frozen=True, slots=True)
class StepJob:
    """Everything the workflow needs to run one step.

    `job` is the Cloud Run job, `args` its arguments. `done` means that the step has nothing left to run. `machine` is
    the kind of machine whose slots limit how many such executions run at once.
    """

    job: str
    machine: str
    timeout_seconds: int
    done: bool
    args: Sequence[str] = field(default_factory=tuple)
