"""Runs every few minutes and makes good what got lost on the way: a publish, an execution, a wake-up, a clean-up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from gemtune.errors import JobNotFound, JobWasDeleted, RecordUnreadable, Stale, VersionConflict
from gemtune.jobs import changes, launches
from gemtune.jobs.launches import RELAUNCHES
from gemtune.jobs.record import Failure, Job
from gemtune.jobs.secret_names import OWN_PREFIX, job_of_secret
from gemtune.jobs.status import Step
from gemtune.ports import Buckets, Clock, ExecutionState, JobStore, Launcher, Secrets
from gemtune.services.acceptance.submit import Submit
from gemtune.services.delete import TOMBSTONE
from gemtune.services.dispatch import LEASE, Dispatch
from gemtune.services.fan_out import FanOut

log = logging.getLogger(__name__)

# How long after its acceptance a job that nobody launched is asked for again.
PUBLISH_GRACE = timedelta(minutes=1)
# Secrets, specs and half-written objects younger than this may belong to a request that is under way.
ORPHAN_AGE = timedelta(hours=1)
# Specs older than this were looked at by many a sweep before.
SPEC_WINDOW = timedelta(days=1)
# How long after a delete its last execution may still write, and what it writes is removed again.
LATE_WRITES = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Sweep:
    store: JobStore
    buckets: Buckets
    secrets: Secrets
    launcher: Launcher
    submit: Submit
    dispatch: Dispatch
    fan_out: FanOut
    clock: Clock
    timeouts: Mapping[Step, int]  # seconds

    def __call__(self) -> None:
        """One round. A job that cannot be mended now does not keep the others from it."""
        now = self.clock.now()
        for job in self.store.unfinished():
            self._guarded(job.job_id, partial(self._mend, job, now))
        for job_id in self.store.unpublished():
            self._guarded(job_id, partial(self.fan_out, job_id))
        self._guarded("secrets", partial(self._remove_orphaned_secrets, now))
        self._guarded("specs", partial(self._remove_orphaned_specs, now))
        self._guarded("tombstones", partial(self._keep_deleted, now))
        for bucket in (self.buckets.config, self.buckets.data, self.buckets.uploads, self.buckets.export):
            bucket.remove_unfinished(now - ORPHAN_AGE)

    def _guarded(self, what: str, mend: Callable[[], None]) -> None:
        try:
            mend()
        except (VersionConflict, Stale, JobNotFound, JobWasDeleted) as error:
            log.info("%s went on by itself: %s", what, error)
        except Exception:
            log.exception("the sweep could not mend %s; the next one tries again", what)

    def _mend(self, job: Job, now: datetime) -> None:
        if job.claim is None:
            self._mend_unclaimed(job, now)
        elif (cause := self._lost(job, now)) is not None:
            self._relaunch(job, cause, now)

    def _mend_unclaimed(self, job: Job, now: datetime) -> None:
        launch = job.launch
        if launch.lease_until is None:
            if launches.has_passed(PUBLISH_GRACE, since=job.updated_at, at=now):
                self.submit.publish(job)
        elif not launches.is_leased(launch, at=now, lease=LEASE):
            if launch.execution is not None:
                state = self.launcher.state(launch.execution)
                if state is ExecutionState.ACTIVE:
                    return  # another one would only wait behind it
                change = partial(launches.give_up_launch, launch=launch.number, cause=str(state), at=now)
                if self.store.update(job.job_id, change).is_over:
                    return
                log.warning("job %s is launched again: launch %d ended without a claim", job.job_id, launch.number)
            self.dispatch.launch(job.job_id)

    def _lost(self, job: Job, now: datetime) -> str | None:
        """Why the claiming execution will not bring this job to its end; None when it may."""
        assert job.claim is not None
        state = self.launcher.state(job.claim.execution)
        if state is not ExecutionState.ACTIVE:
            return f"execution_{state}"
        step = job.running_step
        if step is None:
            return None
        heard = job.steps[step].heartbeat_at
        # A heartbeat far in the future came from a clock that was set back since: it says no more than an old one.
        stale = heard is not None and abs(now - heard) > timedelta(seconds=self.timeouts[step])
        return "heartbeat_stale" if stale else None

    def _relaunch(self, job: Job, cause: str, now: datetime) -> None:
        """Give the job to a new launch, whose steps resume; or fail it when that was done often enough."""
        if job.relaunches >= RELAUNCHES:
            message = f"its execution was lost {RELAUNCHES + 1} times, the last time by {cause}"
            failure = Failure(code="execution_lost", message=message, hint="see the workflow's log, then submit again")
            self.store.update(job.job_id, lambda job: changes.fail_job(job, failure, at=now), version=job.version)
            return
        lease = now + LEASE
        change = partial(launches.relaunch, at=now, lease_until=lease, cause=cause)
        relaunched = self.store.update(job.job_id, change, version=job.version)
        log.warning("job %s is launched again: %s", job.job_id, cause)  # stuck jobs are counted by this line
        self._stop(job)
        self.dispatch.start(job.job_id, relaunched.launch.number)

    def _stop(self, job: Job) -> None:
        """End what the lost execution may still run. It could not write any more, but it would cost."""
        try:
            if (step := job.running_step) is not None and (execution := job.steps[step].execution) is not None:
                self.launcher.stop_step(execution)
            if job.claim is not None:
                self.launcher.stop(job.claim.execution)
        except Exception:
            log.exception("what runs for a lost execution of job %s could not be stopped", job.job_id)

    def _remove_orphaned_secrets(self, now: datetime) -> None:
        for secret in self.secrets.list(OWN_PREFIX):
            if now - secret.created_at >= ORPHAN_AGE and not self._is_needed(secret.name):
                self.secrets.delete(secret.name)

    def _is_needed(self, secret_name: str) -> bool:
        try:
            job = self.store.get(job_of_secret(secret_name))
        except JobNotFound:
            return False
        except RecordUnreadable:  # a newer version's job, perhaps
            return True
        return not job.is_over and secret_name in job.secret_names.values()

    def _remove_orphaned_specs(self, now: datetime) -> None:
        deleted = set(self._deleted(now))  # such a delete may have died half-way
        for spec in self.buckets.config.list("specs/"):
            job_id = spec.name.removeprefix("specs/").rpartition("-")[0]
            of_an_age = ORPHAN_AGE <= now - spec.updated_at <= SPEC_WINDOW
            if job_id in deleted or (of_an_age and not self._is_named(spec.name, job_id)):
                self.buckets.config.delete(spec.name)

    def _is_named(self, spec_name: str, job_id: str) -> bool:
        try:
            return self.store.get(job_id).spec_name == spec_name
        except JobNotFound:
            return False
        except RecordUnreadable:
            return True

    def _keep_deleted(self, now: datetime) -> None:
        for job_id in self._deleted(now):
            self.buckets.export.delete_prefix(f"jobs/{job_id}/")
        self.store.drop_tombstones(now)

    def _deleted(self, now: datetime) -> Iterator[str]:
        """Jobs that were deleted so lately that something may still write for them."""
        return self.store.tombstones(until_after=now + TOMBSTONE - LATE_WRITES)
