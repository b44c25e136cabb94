"""Slots of one kind of machine, and the queue for them.

All functions are pure: the time is an argument.

A job holds a slot from before the execution of its step is created until the step has ended. Its entry is leased by its
own record: `sweep` removes the entry of a job whose record shows that no step runs or is about to.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

# A job counts as accepted so much later than it was. It is therefore overtaken only by jobs that were accepted within
# this time, and none waits for ever.
LATER: Mapping[str, timedelta] = {"high": timedelta(days=-1), "normal": timedelta(), "low": timedelta(days=1)}
# Time that a step has to end after it was told to: ten seconds until SIGKILL, and some more.
LINGER = timedelta(seconds=15)
# An entry of the queue is written again after this time, which shows that its workflow still asks. All jobs of a queue
# write one document, and Firestore takes about one write of it per second: a full queue writes 0.8.
ASKED_AGAIN = timedelta(minutes=20)
# Jobs of a queue that are stored, the first ones. The others find out their place each time they ask. A document of
# Firestore has at most 1 MiB; an entry has about 300 bytes.
MAX_WAITING = 1000


# Time of an entry: far enough from the ends of the calendar that sums and differences have a date.
Time = Annotated[AwareDatetime, Field(gt=datetime(1000, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC))]
Seconds = Annotated[float, Field(allow_inf_nan=False)]


class _Entry(BaseModel):
    """Entry of a table; fields of newer versions are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Holder(_Entry):
    """Job that holds a slot.

    launch: launch whose execution runs the step. free_at: set when the job has given up the slot while its step may
    still be ending; the slot is then free from this time on. seconds: expected duration of the step from `since` on;
    None if it is not known.
    """

    job_id: str
    launch: int
    since: Time
    free_at: Time | None = None
    seconds: Seconds | None = None


class Waiter(_Entry):
    """Job that waits for a slot. seconds: as in Holder."""

    job_id: str
    priority: str
    accepted_at: Time
    since: Time
    asked_at: Time
    seconds: Seconds | None = None

    @property
    def place(self) -> tuple[datetime, str]:
        """Return the key by which the queue is sorted."""
        return self.accepted_at + LATER.get(self.priority, timedelta()), self.job_id


class SlotTable(_Entry):
    """Holders of the slots of one kind of machine, and who waits for one."""

    holders: tuple[Holder, ...] = ()
    waiting: tuple[Waiter, ...] = ()

    def holder(self, job_id: str) -> Holder | None:
        """Return the entry of a job that holds a slot, or None."""
        return next((holder for holder in self.holders if holder.job_id == job_id), None)


@dataclass(frozen=True, slots=True)
class Applicant:
    """Job that asks for a slot, under one of its launches.

    seconds: how long its step is expected to take; None if that is not known.
    """

    job_id: str
    launch: int
    accepted_at: datetime
    priority: str
    seconds: float | None = None


def ask(table: SlotTable, applicant: Applicant, *, capacity: int, at: datetime) -> tuple[SlotTable, int]:
    """Give the job a slot if it is its turn, or else a place in the queue.

    Returns the changed table, and the job's position: 0 if it has a slot, 1 if it is the next to get one. For a job
    that is not among the first MAX_WAITING, the position is the least that it can be. A job that has a slot already
    keeps it.
    """
    holders = tuple(holder for holder in table.holders if not _is_free(holder, at))
    mine = _holder(table, applicant, at)
    others = tuple(holder for holder in holders if holder.job_id != applicant.job_id)
    queue = tuple(waiter for waiter in table.waiting if waiter.job_id != applicant.job_id)
    if len(others) < len(holders):
        return _with(table, (*others, mine), queue), 0
    waiter = _waiter(table, applicant, at)
    free = max(0, capacity - len(holders))
    ahead = sum(other.place < waiter.place for other in queue)
    if ahead < free:
        return _with(table, (*holders, mine), queue), 0
    waiting = tuple(sorted((*queue, waiter), key=lambda each: each.place))
    return _with(table, holders, waiting[:MAX_WAITING]), ahead - free + 1


def leave(table: SlotTable, job_id: str, *, launch: int | None, at: datetime, lingers: bool) -> SlotTable:
    """Remove a job from the holders and from the queue.

    launch: only if this launch holds the slot; None: whichever does. lingers: whether the step may still be running, so
    that its slot stays taken for LINGER. Returns the same table if nothing changes.
    """
    holder = table.holder(job_id)
    queue = tuple(waiter for waiter in table.waiting if waiter.job_id != job_id)
    holders = table.holders
    if holder is not None and launch in (None, holder.launch) and not (lingers and holder.free_at is not None):
        holders = tuple(other for other in holders if other.job_id != job_id)
        if lingers:
            holders = (*holders, holder.model_copy(update={"free_at": at + LINGER}))
    return _with(table, holders, queue)


def estimated_wait(table: SlotTable, job_id: str, *, capacity: int, at: datetime) -> float | None:
    """Return the seconds until a waiting job gets a slot, if no job fails.

    It follows from the expected durations of the steps that hold slots, and of the steps of the jobs before it in the
    queue. None if such a duration is not known, or if a step has already taken longer.
    """
    free_in = sorted(_seconds_until_free(holder, at) for holder in table.holders)
    free_in = [0.0] * (capacity - len(free_in)) + free_in[max(0, len(free_in) - capacity) :]
    heapq.heapify(free_in)
    for waiter in sorted(table.waiting, key=lambda each: each.place):
        start = heapq.heappop(free_in)
        if waiter.job_id == job_id:
            return None if math.isinf(start) else start
        heapq.heappush(free_in, start + (math.inf if waiter.seconds is None else waiter.seconds))
    return None


def _seconds_until_free(holder: Holder, at: datetime) -> float:
    """Return the expected seconds until a slot is free; infinity: unknown."""
    if holder.free_at is not None:
        return 0.0 if _is_free(holder, at) else (holder.free_at - at).total_seconds()
    left = math.inf if holder.seconds is None else holder.seconds - (at - holder.since).total_seconds()
    return left if left >= 0 else math.inf


def _holder(table: SlotTable, applicant: Applicant, at: datetime) -> Holder:
    """Return the job's entry as a holder from now on."""
    mine = Holder(job_id=applicant.job_id, launch=applicant.launch, since=at, seconds=applicant.seconds)
    before = table.holder(applicant.job_id)
    return mine if before is None else before.model_copy(update=dict(mine))


def _waiter(table: SlotTable, applicant: Applicant, at: datetime) -> Waiter:
    """Return the job's entry in the queue, the existing one if it is recent."""
    before = next((waiter for waiter in table.waiting if waiter.job_id == applicant.job_id), None)
    is_same = before is not None and (before.priority, before.seconds) == (applicant.priority, applicant.seconds)
    if before is not None and is_same and abs(at - before.asked_at) < ASKED_AGAIN:
        return before
    waiter = Waiter(
        job_id=applicant.job_id,
        priority=applicant.priority,
        accepted_at=applicant.accepted_at,
        since=at if before is None else before.since,
        asked_at=at,
        seconds=applicant.seconds,
    )
    return waiter if before is None else before.model_copy(update=dict(waiter))


def _is_free(holder: Holder, at: datetime) -> bool:
    """Return whether a slot that was given up is free now.

    It is so, too, if the clock was set back to before it was given up.
    """
    return holder.free_at is not None and not holder.free_at - LINGER <= at < holder.free_at


def _with(table: SlotTable, holders: tuple[Holder, ...], waiting: tuple[Waiter, ...]) -> SlotTable:
    """Return the table with other entries; the same object if they are equal."""
    if (holders, waiting) == (table.holders, table.waiting):
        return table
    return table.model_copy(update={"holders": holders, "waiting": waiting})
