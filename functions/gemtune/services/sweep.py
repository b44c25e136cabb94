"""Sweep, which runs every few minutes and repairs jobs after failures.

It resends lost messages, replaces lost workflow executions, publishes remaining events, and removes orphans.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar
from zlib import crc32

from gemtune.admission import pauses
from gemtune.errors import JobNotFound, JobWasDeleted, RecordUnreadable, SecretNotFound, Stale, VersionConflict
from gemtune.jobs import changes, launches
from gemtune.jobs.launches import RELAUNCHES
from gemtune.jobs.page_tokens import PagePosition
from gemtune.jobs.record import Failure, Job
from gemtune.jobs.secret_names import OWN_PREFIX, SECRET_TTL, job_of_secret, job_secrets
from gemtune.jobs.status import Status, Step
from gemtune.ports import Buckets, Clock, ExecutionState, JobStore, Launcher, Secrets
from gemtune.services.acceptance.create_job import NEW_SPECS, SPECS
from gemtune.services.acceptance.submit import Submit
from gemtune.services.budgets.ledger import OwnerBudgets
from gemtune.services.datasets.check import remove_old_checks
from gemtune.services.datasets.upload import UploadDataset
from gemtune.services.delete import TOMBSTONE
from gemtune.services.dispatch import LEASE, Dispatch
from gemtune.services.fan_out import FanOut
from gemtune.services.machine_slots import MachineSlots
from gemtune.services.stop_executions import StopExecutions

log = logging.getLogger(__name__)
T = TypeVar("T")

# If a job has no launch this long after its last change, the request for a launch is published again.
PUBLISH_GRACE = timedelta(minutes=1)
# Secrets, specs and incomplete objects younger than this may belong to a request that is being accepted.
ORPHAN_AGE = timedelta(hours=1)
# A job's secrets are renewed this long after the last time, many times before they expire.
SECRET_RENEWAL = timedelta(days=1)
# An upload of a dataset that was not completed for so long is removed.
UPLOAD_AGE = timedelta(days=7)
# A check of a dataset is removed after so long.
CHECK_AGE = timedelta(days=7)
# Seconds that one sweep spends on unfinished jobs, each of which takes a call to the platform.
REPAIR_SECONDS = 240.0
# Seconds that one sweep spends on each kind of things whose number has no bound: events to publish, secrets, specs,
# deleted jobs and their tombstones. Together with the repairs they stay below the function's timeout.
PART_SECONDS = 35.0
# Seconds between two sweeps on Google Cloud, and secrets or deleted jobs that each of them looks at.
SWEEP_SECONDS, CHECKED_PER_SWEEP = 180, 200
# Time after a job's deletion in which its last execution may still write files; sweeps remove them.
LATE_WRITES = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Service that repairs unfinished jobs and removes orphans.

    timeouts: seconds without a heartbeat after which an execution of a step counts as lost.
    """

    store: JobStore
    buckets: Buckets
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

    def __call__(self) -> None:
        """Run one sweep.

        A repair that fails does not prevent the others.
        """
        now = self.clock.now()
        for job_id in self._for_some_time(_shuffled(self.store.unpublished(), now)):
            self._guarded(job_id, partial(self.fan_out, job_id))
        self._guarded("slots", self.slots.sweep)
        self._guarded("accounts", self.budgets.remove_old)
        self._guarded("secrets", partial(self._remove_orphaned_secrets, now))
        self._guarded("specs", partial(self._remove_orphaned_specs, now))
        self._guarded("deleted jobs", partial(self._remove_late_writes, now))
        self._guarded("tombstones", partial(self._drop_tombstones, now))
        uploads = UploadDataset(self.buckets.data, self.clock)
        self._guarded("uploads", partial(uploads.remove_abandoned, now - UPLOAD_AGE))
        self._guarded("checks", partial(remove_old_checks, self.buckets, now - CHECK_AGE))
        for bucket in (self.buckets.config, self.buckets.data, self.buckets.uploads, self.buckets.export):
            self._guarded(f"bucket {bucket.bucket}", partial(bucket.remove_unfinished, now - ORPHAN_AGE))
        self._repair_jobs(now)

    def _repair_jobs(self, now: datetime) -> None:
        """Repair unfinished jobs, as many as there is time for.

        The next sweep goes on where this one stops, and begins again at the end.
        """
        deadline = self.clock.monotonic() + REPAIR_SECONDS
        start = self.store.sweep_position()
        for job in self.store.unfinished(after=start):
            self._guarded(job.job_id, partial(self._repair, job, now))
            if self.clock.monotonic() >= deadline:
                self.store.set_sweep_position(PagePosition(job.created_at, job.job_id))
                return
        if start is not None:
            self.store.set_sweep_position(None)

    def _for_some_time(self, names: Iterable[T]) -> Iterator[T]:
        """Yield names until this sweep has spent PART_SECONDS on them."""
        deadline = self.clock.monotonic() + PART_SECONDS
        for name in names:
            yield name
            if self.clock.monotonic() >= deadline:
                return

    def _guarded(self, subject: str, repair: Callable[[], None]) -> None:
        """Run one repair, and log the error if it fails.

        subject: the name of what is repaired, for the log.
        """
        try:
            repair()
        except (VersionConflict, Stale, JobNotFound, JobWasDeleted) as error:
            log.info("%s needs no repair any more: %s", subject, error)
        except Exception:
            log.exception("the sweep could not repair %s; the next one tries again", subject)

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

    def _remove_orphaned_secrets(self, now: datetime) -> None:
        """Remove secrets of jobs that are over or do not exist.

        If there are many, each sweep checks another part of them.
        """
        old = [secret.name for secret in self.secrets.list(OWN_PREFIX) if now - secret.created_at >= ORPHAN_AGE]
        for name in self._for_some_time(_shuffled(_part(old, now), now)):
            if not self._is_needed(name):
                self.secrets.delete(name)

    def _is_needed(self, secret_name: str) -> bool:
        """Return whether an unfinished job may still read the secret."""
        try:
            job = self.store.get(job_of_secret(secret_name))
        except JobNotFound:
            return False
        except RecordUnreadable:  # perhaps a job of a newer version
            return True
        return not job.is_over and secret_name in job.secret_names.values()

    def _remove_orphaned_specs(self, now: datetime) -> None:
        """Remove specs that no job's record names, and those of deleted jobs.

        Each spec is checked once after its creation and its deletion, by its marker, so that the work does not grow
        with the number of finished jobs.
        """
        deleted = set(self._recently_deleted(now))  # their deletion may have been interrupted
        for marker in self._for_some_time(self.buckets.config.list(NEW_SPECS)):
            spec_name = f"{SPECS}{marker.name.removeprefix(NEW_SPECS)}"
            job_id = spec_name.removeprefix(SPECS).rpartition("-")[0]
            if job_id not in deleted and now - marker.updated_at < ORPHAN_AGE:
                continue
            if job_id in deleted or not self._is_spec_of(spec_name, job_id):
                self.buckets.config.delete(spec_name)
            self.buckets.config.delete(marker.name)

    def _is_spec_of(self, spec_name: str, job_id: str) -> bool:
        """Return whether the job's record names this spec.

        True also if the record cannot be read.
        """
        try:
            return self.store.get(job_id).spec_name == spec_name
        except JobNotFound:
            return False
        except RecordUnreadable:
            return True

    def _remove_late_writes(self, now: datetime) -> None:
        """Remove files that were written after their job was deleted.

        If there are many deleted jobs, each sweep looks at another part of them.
        """
        for job_id in self._for_some_time(_shuffled(_part(list(self._recently_deleted(now)), now), now)):
            self.buckets.export.delete_prefix(f"jobs/{job_id}/")

    def _drop_tombstones(self, now: datetime) -> None:
        """Remove expired tombstones, as many as there is time for."""
        drop = partial(self.store.drop_tombstones, now, limit=CHECKED_PER_SWEEP)
        for dropped in self._for_some_time(iter(drop, 0)):
            log.info("%d tombstones of deleted jobs have expired", dropped)

    def _recently_deleted(self, now: datetime) -> Iterator[str]:
        """Return the ids of jobs that were deleted recently.

        Their last executions may still write files.
        """
        return self.store.tombstones(until_after=now + TOMBSTONE - LATE_WRITES)


def _part(names: Sequence[str], now: datetime) -> list[str]:
    """Return about CHECKED_PER_SWEEP of the names, another part at each sweep."""
    parts = -(-len(names) // CHECKED_PER_SWEEP) or 1
    part = now.timestamp() // SWEEP_SECONDS % parts
    return [name for name in names if crc32(name.encode()) % parts == part]


def _shuffled(names: Iterable[str], now: datetime) -> list[str]:
    """Return the names in another order at each sweep.

    So what takes long, or fails, does not keep the same ones from their turn each time.
    """
    shuffled = sorted(names)
    random.Random(now.timestamp() // SWEEP_SECONDS).shuffle(shuffled)
    return shuffled
