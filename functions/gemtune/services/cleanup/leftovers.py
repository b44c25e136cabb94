"""Leftovers of ended jobs, interrupted requests and abandoned uploads.

Each method yields repairs one by one, so that a caller can stop when its time is up and go on after a failed one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from gemtune.errors import JobNotFound, RecordUnreadable
from gemtune.jobs.secret_names import OWN_PREFIX, job_of_secret
from gemtune.ports import Buckets, Clock, JobStore, ObjectStat, Secrets, Tombstone
from gemtune.services.acceptance.create_job import NEW_SPECS, SPECS
from gemtune.services.cleanup.order import CHECKED_PER_SWEEP, part_of, shuffled
from gemtune.services.cleanup.positions import Position, Positions
from gemtune.services.datasets.check import old_checks, remove_check
from gemtune.services.datasets.upload import UploadDataset

log = logging.getLogger(__name__)

# Lifetime of a tombstone.
TOMBSTONE = timedelta(days=30)
# Time after a job's deletion in which its last execution may still write files.
LATE_WRITES = timedelta(days=2)
# Secrets, specs and incomplete objects younger than this may belong to a request that is being accepted.
ORPHAN_AGE = timedelta(hours=1)
# An upload of a dataset that was not completed for so long is removed.
UPLOAD_AGE = timedelta(days=7)
# A check of a dataset is removed after so long.
CHECK_AGE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair of a sweep.

    subject: the name of what is repaired, for the log.
    """

    subject: str
    run: Callable[[], object]


Repairs = Generator[Repair, None, None]


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Service that removes leftovers."""

    store: JobStore
    buckets: Buckets
    secrets: Secrets
    positions: Positions
    clock: Clock

    def orphaned_secrets(self, now: datetime) -> Repairs:
        """Remove secrets of jobs that are over or do not exist.

        If there are many, each sweep checks another part of them.
        """
        old = [secret.name for secret in self.secrets.list(OWN_PREFIX) if now - secret.created_at >= ORPHAN_AGE]
        for name in shuffled(part_of(old, now), now):
            yield Repair(f"secret {name}", partial(self._remove_unless_needed, name))

    def orphaned_specs(self, now: datetime) -> Repairs:
        """Remove specs that no job's record names.

        Each spec is checked once after its creation and its deletion, by its marker, so that the work does not grow
        with the number of finished jobs.
        """
        for marker in self.buckets.config.list(NEW_SPECS):
            yield Repair(marker.name, partial(self._check_spec, marker, now))

    def late_writes(self, now: datetime) -> Repairs:
        """Remove files that were written after their job was deleted.

        If there are many deleted jobs, each sweep goes on where the one before stopped.
        """

        def deleted(after: Position | None) -> Iterator[Tombstone]:
            start = None if after is None else Tombstone(after.at, after.job_id)
            return self.store.tombstones(until_after=now + TOMBSTONE - LATE_WRITES, after=start)

        with closing(self.positions.resume("deleted-jobs", deleted, _position_of)) as tombstones:
            for number, tombstone in enumerate(tombstones, start=1):
                folder = f"jobs/{tombstone.job_id}/"
                yield Repair(folder, partial(self.buckets.export.delete_prefix, folder))
                if number == CHECKED_PER_SWEEP:
                    return

    def expired_tombstones(self, now: datetime) -> Repairs:
        """Remove expired tombstones, some at a time, until none is left."""
        dropped = [CHECKED_PER_SWEEP]

        def drop() -> None:
            dropped[0] = 0  # after a failure the next sweep tries again
            dropped[0] = self.store.drop_tombstones(now, limit=CHECKED_PER_SWEEP)
            if dropped[0]:
                log.info("%d tombstones of deleted jobs have expired", dropped[0])

        while dropped[0]:
            yield Repair("tombstones", drop)

    def abandoned_uploads(self, now: datetime) -> Repairs:
        """Remove uploads of datasets to which nothing was added for long."""
        uploads = UploadDataset(self.buckets.data, self.clock)
        for dataset_id in shuffled(uploads.in_progress(), now):
            yield Repair(f"upload {dataset_id}", partial(uploads.remove_abandoned, dataset_id, now - UPLOAD_AGE))

    def old_checks(self, now: datetime) -> Repairs:
        """Remove checks of datasets that began long ago."""
        for name in old_checks(self.buckets, now - CHECK_AGE):
            yield Repair(name, partial(remove_check, self.buckets, name))

    def unfinished_files(self, now: datetime) -> Repairs:
        """Remove temporary files that crashed writers left."""
        for bucket in (self.buckets.config, self.buckets.data, self.buckets.uploads, self.buckets.export):
            yield Repair(f"bucket {bucket.bucket}", partial(bucket.remove_unfinished, now - ORPHAN_AGE))

    def _remove_unless_needed(self, secret_name: str) -> None:
        """Remove a secret that no unfinished job may still read."""
        try:
            job = self.store.get(job_of_secret(secret_name))
        except JobNotFound:
            is_needed = False
        except RecordUnreadable:  # perhaps a job of a newer version
            is_needed = True
        else:
            is_needed = not job.is_over and secret_name in job.secret_names.values()
        if not is_needed:
            self.secrets.delete(secret_name)

    def _check_spec(self, marker: ObjectStat, now: datetime) -> None:
        """Remove a spec that no job's record names, and its marker.

        The record of a young one may be about to be written.
        """
        if now - marker.updated_at < ORPHAN_AGE:
            return
        name = f"{SPECS}{marker.name.removeprefix(NEW_SPECS)}"
        if not self._is_spec_of(name, name.removeprefix(SPECS).rpartition("-")[0]):
            self.buckets.config.delete(name)
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


def _position_of(tombstone: Tombstone) -> Position:
    return Position(at=tombstone.until, job_id=tombstone.job_id)
