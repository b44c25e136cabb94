"""Slots of all kinds of machines, each kind's table in a document of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from pydantic import ValidationError

from gemtune.admission import slots
from gemtune.admission.damaged_slots import rebuilt
from gemtune.admission.slots import Applicant, Holder, SlotTable, Waiter
from gemtune.errors import JobNotFound, RecordUnreadable
from gemtune.jobs.record import Job
from gemtune.jobs.status import LAUNCHABLE
from gemtune.ports import Clock, JobStore, SharedDocuments

log = logging.getLogger(__name__)

PREFIX = "slots/"
# Entries younger than this may belong to a job whose record does not show its use for the slot yet.
GRACE = timedelta(minutes=1)
# A job whose workflow has not asked for this long is taken out of the queue, so that it does not stop the others.
SILENCE = timedelta(minutes=30)
# Jobs of a queue whose records each sweep reads: the first ones, which would stop the others if they did not go on.
CHECKED = 100
# Seconds of the longest wait that is estimated. Requests may be for trainings of more years than a date can have.
LONGEST_ESTIMATE = timedelta(days=3650).total_seconds()


@dataclass(frozen=True, slots=True)
class Place:
    """Answer to a job that asks for a slot.

    position: 0 if the job has the slot, or else its place in the queue. start: when it is expected to get the slot, if
    that is known.
    """

    position: int
    start: datetime | None


@dataclass(frozen=True, slots=True)
class MachineSlots:
    """Service that gives slots to jobs and takes them back.

    capacities: number of slots by kind of machine; a kind that is not listed has one.
    """

    documents: SharedDocuments
    store: JobStore
    clock: Clock
    capacities: Mapping[str, int]

    def table(self, machine: str) -> SlotTable:
        """Return who holds slots of a kind of machine, and who waits."""
        return self._read(self.documents.read(PREFIX + machine), machine)[0]

    def ask(self, job: Job, machine: str, *, launch: int, seconds: float | None = None) -> Place:
        """Ask for a slot for a job.

        seconds: how long its step is expected to take.
        """
        applicant = Applicant(job.job_id, launch, job.created_at, job.priority, seconds)
        capacity, now, places = self.capacities.get(machine, 1), self.clock.now(), list[Place]()

        def change(table: SlotTable) -> SlotTable:
            table, position = slots.ask(table, applicant, capacity=capacity, at=now)
            wait = slots.estimated_wait(table, job.job_id, capacity=capacity, at=now) if position else None
            start = None if wait is None or wait > LONGEST_ESTIMATE else now + timedelta(seconds=wait)
            places[:] = [Place(position, start)]
            return table

        self._update(machine, change)
        return places[0]

    def leave(self, job_id: str, machine: str, *, launch: int | None = None, lingers: bool = False) -> None:
        """Take a job's slot back, or its place in the queue.

        launch, lingers: as in `slots.leave`.
        """
        now = self.clock.now()
        self._update(machine, lambda table: slots.leave(table, job_id, launch=launch, at=now, lingers=lingers))

    def held_by(self, job_id: str, launch: int) -> list[str]:
        """Return the kinds of machines of which a job's launch holds a slot."""
        holders = {machine: self.table(machine).holder(job_id) for machine in self.machines()}
        return [machine for machine, holder in holders.items() if holder is not None and holder.launch == launch]

    def leave_all(self, job: Job, *, lingers: bool) -> None:
        """Take back whatever the job holds or waits for, by its record."""
        named = {part.machine for part in (job.admission, job.waiting) if part is not None}
        for machine in named:
            self.leave(job.job_id, machine, lingers=lingers)

    def machines(self) -> list[str]:
        """Return the kinds of machines of which there is a table."""
        return [name.removeprefix(PREFIX) for name in self.documents.names(PREFIX)]

    def take_back_slot(self, machine: str, holder: Holder) -> None:
        """Take back a slot if the job that holds it has no use for it."""
        is_new = abs(self.clock.now() - holder.since) < GRACE
        if not is_new and not self._is_entitled(holder.job_id, machine, holder.launch):
            self.leave(holder.job_id, machine, launch=holder.launch, lingers=True)

    def take_back_places(self, machine: str) -> None:
        """Take back the places in a queue of jobs that have no use for them."""
        now = self.clock.now()
        gone = [
            waiter
            for place, waiter in enumerate(self.table(machine).waiting)
            if abs(now - waiter.asked_at) > SILENCE
            or (place < CHECKED and not self._is_entitled(waiter.job_id, machine, None))
        ]
        if gone:  # all in one write, since a document of Firestore takes about one per second
            self._update(machine, partial(_without, gone=gone))

    def _is_entitled(self, job_id: str, machine: str, launch: int | None) -> bool:
        """Return whether the job's record shows that it needs this machine.

        True if the record cannot be read, since it may be of a newer version.
        """
        try:
            job = self.store.get(job_id)
        except JobNotFound:
            return False
        except RecordUnreadable:
            return True
        if job.claim is None or job.status not in LAUNCHABLE or launch not in (None, job.claim.launch):
            return False
        return launch is None or job.admission is None or job.admission.machine == machine

    def _update(self, machine: str, change: Callable[[SlotTable], SlotTable]) -> None:
        """Change a kind's table in one transaction."""

        def changed(body: str | None) -> str | None:
            before, is_whole = self._read(body, machine)
            after = change(before)
            return body if after is before and is_whole else after.model_dump_json()

        self.documents.update(PREFIX + machine, changed)

    def _read(self, body: str | None, machine: str) -> tuple[SlotTable, bool]:
        """Return a kind's table, and whether it could be read as a whole.

        A damaged one is rebuilt, since it must not stop the machine's queue. The next change replaces it.
        """
        if body is None:
            return SlotTable(), True
        with suppress(ValidationError):
            table = SlotTable.model_validate_json(body)
            if table.model_fields_set >= {"holders", "waiting"}:  # both are always written
                return table, True
        jobs, capacity = self.store.unfinished(), self.capacities.get(machine, 1)
        log.error("%s%s is damaged, and is rebuilt from the records of jobs", PREFIX, machine)
        return rebuilt(body, jobs, machine=machine, capacity=capacity, at=self.clock.now()), False


def _without(table: SlotTable, gone: Iterable[Waiter]) -> SlotTable:
    """Return the table without some places in its queue.

    A job that has asked again in the meantime keeps its place.
    """
    places = {(waiter.job_id, waiter.asked_at) for waiter in gone}
    queue = tuple(waiter for waiter in table.waiting if (waiter.job_id, waiter.asked_at) not in places)
    return table.model_copy(update={"waiting": queue})
