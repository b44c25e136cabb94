"""Sweep, which runs every few minutes and repairs jobs after failures.

It resends lost messages, replaces lost workflow executions, publishes remaining events, and removes orphans.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from gemtune.admission import pauses
from gemtune.errors import JobNotFound, JobWasDeleted, SecretNotFound, Stale, VersionConflict
from gemtune.jobs import changes, launches
from gemtune.jobs.launches import RELAUNCHES
from gemtune.jobs.page_tokens import PagePosition
from gemtune.jobs.record import Failure, Job
from gemtune.jobs.secret_names import SECRET_TTL, job_secrets
from gemtune.jobs.status import Status, Step
from gemtune.ports import Clock, ExecutionState, JobStore, Launcher, Secrets
from gemtune.services.acceptance.submit import Submit
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.cleanup.leftovers import Leftovers, Repair, Repairs
from gemtune.services.cleanup.order import rotated, shuffled
from gemtune.services.cleanup.positions import Position, Positions
from gemtune.services.dispatch import LEASE, Dispatch
from gemtune.services.fan_out import FanOut
from gemtune.services.machine_slots import MachineSlots
from gemtune.services.stop_executions import StopExecutions

log = logging.getLogger(__name__)

# If a job has no launch this long after its last change, the request for a launch is published again.
PUBLISH_GRACE = timedelta(minutes=1)
# A job's secrets are renewed this long after the last time, many times before they expire.
SECRET_RENEWAL = timedelta(days=1)
# Seconds that one sweep spends on unfinished jobs, each of which takes a call to the platform.
REPAIR_SECONDS = 240.0
# Seconds that one sweep spends on each other part.
PART_SECONDS = 18.0
# Seconds after which a sweep begins no further part. The function's timeout is 540: a part may pass its limit by one
# repair.
SWEEP_LIMIT = 430.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """Service that repairs unfinished jobs and removes orphans.

    timeouts: seconds without a heartbeat after which an execution of a step counts as lost.
    """

    store: JobStore
    secrets: Secrets
    launcher: Launcher
    submit: Submit
    dispatch: Dispatch
    fan_out: FanOut
    slots: MachineSlots
    stop: StopExecutions
    clock: Clock
    timeouts: Mapping[Step, int]
    budgets: OwnerBudgets
    leftovers: Leftovers
    positions: Positions

    def __call__(self) -> None:
        """Run one sweep.

        Every part has a time limit, and a repair that fails does not prevent the others. If there is no time for some
        parts, the next sweep begins with another one. An error that keeps it from listing the jobs is raised in the
        end, so that the platform shows a failed sweep.
        """
        now, began = self.clock.now(), self.clock.monotonic()
        self._run("events", self._publishing(now), PART_SECONDS)
        error = self._run("jobs", self._repairs_of_jobs(now), REPAIR_SECONDS)
        parts = {
            "slots": self.unused_slots(now),
            "accounts": self._old_accounts(),
            "secrets": self.leftovers.orphaned_secrets(now),
            "specs": self.leftovers.orphaned_specs(now),
            "deleted jobs": self.leftovers.late_writes(now),
            "tombstones": self.leftovers.expired_tombstones(now),
            "uploads": self.leftovers.abandoned_uploads(now),
            "checks": self.leftovers.old_checks(now),
            "unfinished files": self.leftovers.unfinished_files(now),
        }
        for name, repairs in rotated([*parts.items()], now):
            if self.clock.monotonic() - began >= SWEEP_LIMIT:
                log.warning("the sweep has no time left for %s", name)
                continue
            self._run(name, repairs, PART_SECONDS)
        if error is not None:
            raise error

    def _run(self, part: str, repairs: Repairs, seconds: float) -> Exception | None:
        """Run repairs until they have taken so many seconds.

        Returns the error that kept them from being listed, if one did.
        """
        deadline = self.clock.monotonic() + seconds

        def run() -> None:
            with closing(repairs):
                for repair in repairs:
                    self._guarded(repair.subject, repair.run)
                    if self.clock.monotonic() >= deadline:
                        return

        return self._guarded(part, run)

    def _publishing(self, now: datetime) -> Repairs:
        """Publish events that are not published yet."""
        for job_id in shuffled(self.store.unpublished(), now):
            yield Repair(job_id, partial(self.fan_out, job_id))

    def _repairs_of_jobs(self, now: datetime) -> Repairs:
        """Repair unfinished jobs.

        If there is no time for all of them, the next sweep goes on where this one stops.
        """

        def unfinished(after: Position | None) -> Iterator[Job]:
            return self.store.unfinished(after=None if after is None else PagePosition(after.at, after.job_id))

        with closing(self.positions.resume("jobs", unfinished, _position_of)) as jobs:
            for job in jobs:
                yield Repair(job.job_id, partial(self._repair, job, now))

    def unused_slots(self, now: datetime) -> Repairs:
        """Take back the slots and places of jobs that have no use for them."""
        for machine in shuffled(self.slots.machines(), now):
            holders = {f"{each.job_id} {each.launch}": each for each in self.slots.table(machine).holders}
            for name in shuffled(holders, now):
                yield Repair(f"slot of {name}", partial(self.slots.take_back_slot, machine, holders[name]))
            yield Repair(f"queue for {machine}", partial(self.slots.take_back_places, machine))

    def _old_accounts(self) -> Repairs:
        """Remove accounts of months that are long over."""
        for name in self.budgets.old_accounts():
            yield Repair(name, partial(self.budgets.remove, name))

    def _guarded(self, subject: str, repair: Callable[[], object]) -> Exception | None:
        """Run one repair; log the error if it fails, and return it.

        subject: the name of what is repaired, for the log.
        """
        try:
            repair()
        except (VersionConflict, Stale, JobNotFound, JobWasDeleted) as error:
            log.info("%s needs no repair any more: %s", subject, error)
        except Exception as error:
            log.exception("the sweep could not repair %s; the next one tries again", subject)
            return error
        return None

    def _repair(self, job: Job, now: datetime) -> None:
        """Relaunch an unfinished job that no execution runs.

        The secrets of a job that waits or is paused for long are renewed.
        """
        if now - (job.secrets_renewed_at or job.created_at) > SECRET_RENEWAL and job_secrets(job):
            self._renew_secrets(job, now)
        if job.running_step is not None:
            self.budgets.enter(job)
        if job.status is Status.PAUSED:
            return
        if job.claim is None:
            self._repair_unclaimed(job, now)
        elif (cause := self._why_lost(job, now)) is not None:
            self._relaunch(job, cause, now)

    def _renew_secrets(self, job: Job, now: datetime) -> None:
        """Let the job's secrets live on."""
        for name in job_secrets(job):
            with suppress(SecretNotFound):  # the step that needs it reports a better error
                self.secrets.renew(name, ttl=SECRET_TTL)
        self.store.update(job.job_id, lambda job: (job.model_copy(update={"secrets_renewed_at": now}), ()))

    def _repair_unclaimed(self, job: Job, now: datetime) -> None:
        """Launch a job that no execution has claimed in time.

        Either the request for its launch was lost, or no execution could be started, or the execution ended without
        claiming the job.
        """
        launch = job.launch
        if launch.lease_until is None:
            if launches.has_passed(PUBLISH_GRACE, since=job.updated_at, at=now):
                self.submit.publish(job)
        elif not launches.is_leased(launch, at=now, lease=LEASE):
            if launch.execution is not None:
                state = self.launcher.state(launch.execution)
                if state is ExecutionState.ACTIVE:
                    return  # it may still claim the job; a second one would only queue behind it
                change = partial(launches.give_up_launch, launch=launch.number, cause=str(state), at=now)
                if self.store.update(job.job_id, change).is_over:
                    return
                log.warning("job %s is launched again: launch %d ended without a claim", job.job_id, launch.number)
            self.dispatch.launch(job.job_id)

    def _why_lost(self, job: Job, now: datetime) -> str | None:
        """Return why the claiming execution is lost; None if it is not.

        A lost execution will never finish the job.
        """
        assert job.claim is not None
        state = self.launcher.state(job.claim.execution)
        if state is not ExecutionState.ACTIVE:
            return f"execution_{state}"
        step = job.running_step
        if step is None:
            return None
        heartbeat_at = job.steps[step].heartbeat_at
        # A heartbeat far in the future was written before the clock was set back, so it says no more than an old one.
        stale = heartbeat_at is not None and abs(now - heartbeat_at) > timedelta(seconds=self.timeouts[step])
        return "heartbeat_stale" if stale else None

    def _relaunch(self, job: Job, cause: str, now: datetime) -> None:
        """Replace the job's launch by a new one, which resumes its steps.

        Fails the job if it has been relaunched RELAUNCHES times. That does not count while it waits for a machine, and
        a job that is about to pause is paused instead.
        """
        if job.pause is not None:
            paused = self.store.update(job.job_id, lambda job: pauses.settle_lost(job, at=now), version=job.version)
            if paused.status is Status.PAUSED:
                self.stop(job)
                return
        if job.relaunches >= RELAUNCHES and job.waiting is None:
            message = f"its workflow execution was lost {RELAUNCHES + 1} times, the last time because of {cause}"
            failure = Failure(
                code="execution_lost", message=message, hint="see the log of the workflow, then submit again"
            )
            self.store.update(job.job_id, lambda job: changes.fail_job(job, failure, at=now), version=job.version)
            return
        change = partial(launches.relaunch, at=now, lease_until=now + LEASE, cause=cause)
        relaunched = self.store.update(job.job_id, change, version=job.version)
        log.warning("job %s is launched again: %s", job.job_id, cause)  # a metric counts stuck jobs by this line
        self.stop(job)
        self.dispatch.start(job.job_id, relaunched.launch.number)


def _position_of(job: Job) -> Position:
    return Position(at=job.created_at, job_id=job.job_id)
