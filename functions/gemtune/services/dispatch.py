"""Receives job-requests: one workflow execution per launch, and one launch at a time."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gemtune.errors import (
    BadIdempotencyKey,
    GemtuneError,
    JobNotFound,
    JobWasDeleted,
    KeyReused,
    Problem,
    RecordUnreadable,
    RequestRefused,
)
from gemtune.jobs import changes, launches
from gemtune.jobs.record import Job
from gemtune.jobs.sources import Source
from gemtune.ports import Bus, Clock, JobStore, Launcher, Topic
from gemtune.redaction import redact
from gemtune.request import parsing
from gemtune.services.acceptance.create_job import Submission
from gemtune.services.acceptance.submit import Submit
from gemtune.untrusted import Unreadable, read_json_object

log = logging.getLogger(__name__)

JOB_ID = re.compile(r"[a-z0-9_-]{1,63}")
# How long a launch has to be claimed before `sweep` starts another.
LEASE = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Dispatch:
    store: JobStore
    bus: Bus
    launcher: Launcher
    submit: Submit
    clock: Clock

    def __call__(self, message: bytes, *, key: str, owner: str) -> None:
        """A message of job-requests, with its idempotency key. A message that can never succeed is announced and
        done with; whatever else is raised may succeed later, so the platform delivers it again."""
        try:
            job_id = self._job_of(message, key=key, owner=owner)
            self.launch(job_id)
        except RequestRefused as error:
            self._reject(error.problems, key)
        except (KeyReused, BadIdempotencyKey) as error:
            self._reject([_problem(error)], key)
        except JobNotFound as error:
            self._reject([Problem(("job_id",), error.message, error.code, error.hint)], key)
        except JobWasDeleted as error:
            log.info("a late message: %s", error)
        except RecordUnreadable as error:
            log.warning("%s", error)  # the version that wrote it launches it, or its user ends it

    def launch(self, job_id: str) -> None:
        """Take the next launch and start its execution, unless one is under way. Raises JobNotFound, JobWasDeleted."""
        if self.store.was_deleted(job_id):
            raise JobWasDeleted(job_id)
        now = self.clock.now()
        taken: list[int] = []

        def take(job: Job) -> changes.Changed:
            after, events = launches.take_launch(job, at=now, lease=LEASE)
            taken[:] = [] if after is job else [after.launch.number]
            return after, events

        self.store.update(job_id, take)
        if taken:
            self.start(job_id, taken[0])

    def start(self, job_id: str, launch: int) -> None:
        """Start the execution of a launch that was taken; a failure gives the lease back, so the next try need not
        wait for it to end."""
        try:
            execution = self.launcher.start(job_id, launch)
        except Exception:
            self.store.update(job_id, lambda job: launches.return_launch(job, launch))
            raise
        self.store.update(job_id, lambda job: launches.record_execution(job, launch, execution))

    def _job_of(self, message: bytes, *, key: str, owner: str) -> str:
        """The job id in a message, or that of the job its TrainRequest becomes."""
        try:
            body = read_json_object(message)
        except Unreadable:
            body = {}  # the reader of requests says why
        if "job_id" in body:
            return _checked(body["job_id"])
        reading = parsing.read(message, Source.PUBSUB)
        return self.submit.accept(Submission(reading, source=Source.PUBSUB, owner=owner, idempotency_key=key)).job_id

    def _reject(self, problems: Sequence[Problem], key: str) -> None:
        key = redact(key)
        body = {
            "type": "job_rejected",
            "at": self.clock.now().isoformat(),
            "idempotency_key": key,
            "problems": [problem.to_json() for problem in problems],
        }
        attributes = {"type": "job_rejected", "idempotency_key": key}
        self.bus.publish(Topic.JOB_STATUS, json.dumps(body).encode(), attributes=attributes)


def _checked(job_id: object) -> str:
    """Raises RequestRefused for what no job is called."""
    if isinstance(job_id, str) and JOB_ID.fullmatch(job_id):
        return job_id
    raise RequestRefused([Problem(("job_id",), "this is no job id", "bad_job_id", "leave it out in a new request")])


def _problem(error: GemtuneError) -> Problem:
    return Problem((), error.message, error.code, error.hint)
