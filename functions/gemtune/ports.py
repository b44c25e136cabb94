"""What gemtune asks of a platform. `embedded/` and `gcp/` answer; nothing else knows which one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gemtune.jobs.events import Event
from gemtune.jobs.record import Job, JobSummary, Mark, Progress
from gemtune.jobs.status import Status

if TYPE_CHECKING:
    import flask


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, in UTC and aware of it. It may be set back."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward, comparable within this process: for durations and delays."""
        ...


@dataclass(frozen=True, slots=True)
class CreateResult:
    """The record that is there now, and whether this call put it there."""

    job: Job
    is_new: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first; `next_page_token` is None on the last page."""

    jobs: Sequence[JobSummary]
    next_page_token: str | None


# A pure function: the job as it is -> the job as it shall be and the events that tell of it.
# Returning the same object writes nothing. It may be run again, and may raise to refuse.
Change = Callable[[Job], tuple[Job, Sequence[Event]]]


class JobStore(Protocol):
    """Job records and their events. Every write is one transaction."""

    def create(self, job: Job, event: Event) -> CreateResult:
        """Store a new job if its idempotency key and id are free; else return the record that has the key.

        A job with a parent raises the parent's version too, so that a delete of the parent that saw no child fails.
        Raises JobWasDeleted when the key belongs to a deleted job, JobNotFound when there is no such parent.
        """
        ...

    def get(self, job_id: str) -> Job:
        """Raises JobNotFound, RecordUnreadable."""
        ...

    def find_by_key(self, key_hash: str) -> Job | None:
        """The job that has this idempotency key. Raises JobWasDeleted when it was deleted."""
        ...

    def salvage(self, job_id: str) -> Job:
        """The job; of a record that cannot be read, what can be (see jobs/salvage.py). For those who end or remove a
        job. Raises JobNotFound."""
        ...

    def update(self, job_id: str, change: Change, *, version: int | None = None, salvage: bool = False) -> Job:
        """Read, change and write record and events in one transaction; return the job as it is then.

        salvage: `change` gets what can be read of a record that cannot be, and what it makes of it takes its place.
        Raises JobNotFound, VersionConflict when `version` is given and is not the record's, RecordUnreadable without
        `salvage`, RecordInvalid when what is to be written could not be read again, and what `change` raises.
        """
        ...

    def record_progress(self, job_id: str, mark: Mark, progress: Progress | None, at: datetime) -> None:
        """Heartbeat and progress of the running attempt. Does not raise the version. Raises JobNotFound, Stale…"""
        ...

    def mark_published(self, job_id: str, seq: int) -> None:
        """Remember that every event up to `seq` is on job-status. Never lowers, does not raise the version."""
        ...

    def page(self, *, status: Status | None, modality: str | None, limit: int, page_token: str | None) -> Page:
        """A page of jobs, newest first. A record of which not even what a list shows can be read is `unknown`."""
        ...

    def events(self, job_id: str, *, after: int = 0, limit: int = 500) -> Sequence[Event]:
        """Events with a higher number than `after`, in order; one that cannot be read is `unknown`. Raises
        JobNotFound."""
        ...

    def unfinished(self) -> Iterator[Job]:
        """Every job that is not over. Left out are records that cannot be read, and those of a status that only a newer
        version knows: they are its own to mend."""
        ...

    def unfinished_children(self, job_id: str) -> Sequence[str]:
        """Ids of jobs that are not over and have this one as their parent."""
        ...

    def unpublished(self) -> Iterator[str]:
        """Ids of jobs with events that are not known to be published."""
        ...

    def delete(self, job_id: str, *, version: int, tombstone_until: datetime) -> None:
        """Remove record and events, leave a tombstone; whether they can be read does not matter. Raises JobNotFound,
        VersionConflict."""
        ...

    def was_deleted(self, job_id: str) -> bool:
        """Whether a tombstone stands for this id."""
        ...

    def tombstones(self, *, until_after: datetime) -> Iterator[str]:
        """Ids of deleted jobs whose tombstones stand until after this time."""
        ...

    def drop_tombstones(self, now: datetime) -> None:
        """Forget tombstones whose time is over, and their idempotency keys."""
        ...


class Topic(StrEnum):
    JOB_REQUESTS = "job-requests"
    JOB_STATUS = "job-status"
    WEBHOOKS = "webhooks"


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One message that a subscription gave out; it comes again unless its `ack_id` is acknowledged in time."""

    ack_id: str
    message_id: str
    message: bytes
    attributes: Mapping[str, str]
    ordering_key: str


class Bus(Protocol):
    """Messages, delivered at least once."""

    def publish(
        self, topic: Topic, message: bytes, *, attributes: Mapping[str, str] | None = None, ordering_key: str = "",
        durable: bool = True,
    ) -> str:  # fmt: skip
        """Return the message id once the message is durable. What is published again if it got lost need not be: a
        machine that loses its power may then lose it, with all that was recorded after it."""
        ...

    def subscribe(self, name: str, topic: Topic) -> None:
        """Make a durable subscription that is pulled; from now on it gets every message of the topic.

        Raises ValueError when the name belongs to another topic.
        """
        ...

    def pull(self, name: str, limit: int, *, wait_seconds: float = 0.0) -> list[ReceivedMessage]:
        """Return up to `limit` messages that are due, those of one ordering key in their order. Where none is, wait for
        one, at least so long."""
        ...

    def ack(self, name: str, ack_ids: Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class ObjectStat:
    name: str
    bytes: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """Where an object can be read without credentials: a URL, for an hour, or a path on this machine."""

    url: str | None = None
    path: str | None = None


# What is read into memory whole is small: the longest is the loss history of a training, with a line per train_step.
MAX_READ_BYTES = 256 * 1024 * 1024


class Objects(Protocol):
    """One bucket. Names are relative, `/`-separated; `.`, `..`, empty parts and control characters raise UnsafeName.

    Where objects are files, all methods follow symbolic links that stay in the bucket, but for deletions, which remove
    the link. A link that leads out of the bucket or in a circle raises UnsafeName, also from `list`.
    """

    bucket: str

    def read(self, name: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """The content of one object. Raises ObjectNotFound, and Unreadable `too_large` above `max_bytes`."""
        ...

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes of one object from byte `start` on, fewer where it ends before. Raises ObjectNotFound."""
        ...

    def create(self, name: str, content: bytes) -> None:
        """Write only if nothing is there. Raises ObjectExists; CannotStore, as every write of every port does."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write or replace, whole or not at all."""
        ...

    def stat(self, name: str) -> ObjectStat | None: ...

    def generation(self, name: str) -> str | None:
        """Tells one content written under a name from the next one; None when nothing is there."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """Objects whose names begin with `prefix`, by name."""
        ...

    def delete(self, name: str) -> None:
        """Delete; nothing happens when it is not there."""
        ...

    def delete_prefix(self, prefix: str) -> None: ...

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file in, without reading it into memory."""
        ...

    def fetch(self, name: str, into: Path) -> Path:
        """A local, read-only path of one object: the object itself where it is a file, else a copy below `into`."""
        ...

    def fetch_folder(self, prefix: str, into: Path) -> Path:
        """A local, read-only folder of everything below `prefix/`: the folder itself, or a copy at `into`."""
        ...

    def remove_unfinished(self, before: datetime) -> None:
        """Delete what writers that died left half-written before this time."""
        ...

    def uri(self, name: str) -> str:
        """Where a user finds it: a path in embedded, `gs://…` on gcp."""
        ...

    def link(self, name: str) -> Link:
        """How to read an object that is there; whether it is, is not looked at. Raises NoSignedLinks."""
        ...


@dataclass(frozen=True, slots=True)
class Buckets:
    """config: specs. data: datasets. uploads: job files. export: everything of a job, below `jobs/<job_id>/`."""

    config: Objects
    data: Objects
    uploads: Objects
    export: Objects

    def named(self, bucket: str) -> Objects | None:
        """The one of the four that has this name."""
        return next((b for b in (self.config, self.data, self.uploads, self.export) if b.bucket == bucket), None)


@dataclass(frozen=True, slots=True)
class SecretStat:
    name: str
    created_at: datetime


class Secrets(Protocol):
    """Tokens by name. Values go in and out here and nowhere else."""

    def create(self, name: str, value: str, *, ttl: timedelta | None) -> None:
        """Store a value, or replace it; without `ttl` it stays until deleted (the user's own secrets do)."""
        ...

    def create_once(self, name: str, value: str) -> str:
        """Store a value for good, unless the name has one; return the one it has. Whoever comes first wins."""
        ...

    def read(self, name: str) -> str:
        """Raises SecretNotFound, also when its time is over."""
        ...

    def renew(self, name: str, *, ttl: timedelta) -> None:
        """Count the time to live from now. Raises SecretNotFound."""
        ...

    def delete(self, name: str) -> None:
        """Delete; nothing happens when it is not there."""
        ...

    def list(self, prefix: str) -> Iterator[SecretStat]: ...


class ExecutionState(StrEnum):
    ACTIVE = "active"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"


class Launcher(Protocol):
    """Starts and stops workflow executions and the step executions they run."""

    def start(self, job_id: str, launch: int) -> str:
        """Start the n-th workflow execution of a job; the same launch again gives the same execution."""
        ...

    def state(self, execution: str) -> ExecutionState: ...

    def stop(self, execution: str) -> None:
        """End a workflow execution. Nothing happens when it has ended."""
        ...

    def stop_step(self, execution: str) -> None:
        """End a step's own execution (on Cloud Run, or a child process): SIGTERM, and SIGKILL some seconds later."""
        ...


class Callers(Protocol):
    """Who may call the HTTP API, and who it is."""

    def check(self, request: flask.Request) -> None:
        """Before anything else of a request is read. Raises NotFromHere."""
        ...

    def owner(self, request: flask.Request) -> str:
        """Whose a job is that this request makes."""
        ...


@dataclass(frozen=True, slots=True)
class StepJob:
    """What the workflow needs to run one step: the Cloud Run job, its timeout in seconds, its arguments; `done` when
    there is nothing left to run."""

    job: str
    timeout_seconds: int
    done: bool
    args: Sequence[str] = field(default_factory=tuple)
