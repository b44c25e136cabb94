"""Dispatch of messages of the topic job-requests.

A job has one launch at a time, and a launch has one workflow execution.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
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
from gemtune.jobs.ids import JOB_ID
from gemtune.jobs.record import Job
from gemtune.jobs.sources import Source
from gemtune.ports import Bus, Clock, JobStore, Launcher, Topic
from gemtune.redaction import redact
from gemtune.request import parsing
from gemtune.services.acceptance.create_job import Submission
from gemtune.services.acceptance.submit import Submit
from gemtune.untrusted import Unreadable, read_json_object

log = logging.getLogger(__name__)

# Time for a launch to be claimed, after which `sweep` starts another.
LEASE = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Service that launches jobs."""

    store: JobStore
    bus: Bus
    launcher: Launcher
    submit: Submit
    clock: Clock

    def __call__(self, message: bytes, *, key: str, owner: str) -> None:
        """Launch the job that a message of job-requests names or describes.

        A message that can never succeed is rejected by an event and acknowledged. Any other error is raised, so that
        the platform delivers the message again.
        message: `{"job_id": …}` or a TrainRequest. key: idempotency key of the message.
        """
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
            log.info("ignored a late message: %s", error)
        except RecordUnreadable as error:
            log.warning("%s", error)  # the version that wrote the record may launch it, or its user may cancel it

    def launch(self, job_id: str) -> None:
        """Take the job's next launch and start its execution.

        Does nothing if a launch is under way. Raises JobNotFound, JobWasDeleted.
        """
        if self.store.was_deleted(job_id):
            raise JobWasDeleted(job_id)
        now = self.clock.now()
        launch_numbers: list[int] = []  # of the launch that `take` took, if it did

        def take(job: Job) -> changes.Changed:
            after, events = launches.take_launch(job, at=now, lease=LEASE)
            launch_numbers[:] = [] if after is job else [after.launch.number]
            return after, events

        # Not durable, as the execution's row: whatever is lost in a power failure, `sweep` launches the job again.
        self.store.update(job_id, take, durable=False)
        if launch_numbers:
            self.start(job_id, launch_numbers[0])

    def start(self, job_id: str, launch: int) -> None:
        """Start the execution of a launch that was taken.

        If that fails, the lease ends at once, so that the next try need not wait for it.
        """
        try:
            execution = self.launcher.start(job_id, launch)
        except Exception:
            self.store.update(job_id, lambda job: launches.return_launch(job, launch), durable=False)
            raise
        self.store.update(job_id, lambda job: launches.record_execution(job, launch, execution), durable=False)

    def _job_of(self, message: bytes, *, key: str, owner: str) -> str:
        """Return the id of the job that a message names or requests.

        A TrainRequest is accepted first.
        """
        try:
            body = read_json_object(message)
        except Unreadable:
            body = {}  # `parsing.read` reports why
        if "job_id" in body:
            return _check_job_id(body["job_id"])
        reading = parsing.read(message, Source.PUBSUB)
        return self.submit.accept(Submission(reading, source=Source.PUBSUB, owner=owner, idempotency_key=key)).job_id

    def _reject(self, problems: Sequence[Problem], key: str) -> None:
        """Publish the event `job_rejected` on job-status."""
        key = redact(key)
        body = {
            "type": "job_rejected",
            "at": self.clock.now().isoformat(),
            "idempotency_key": key,
            "problems": [problem.to_json() for problem in problems],
        }
        attributes = {"type": "job_rejected", "idempotency_key": key}
        self.bus.publish(Topic.JOB_STATUS, json.dumps(body).encode(), attributes=attributes)


def message_key(attributes: Mapping[str, str], topic: str, message_id: str) -> str:
    """Return the idempotency key of a message.

    It is the attribute Idempotency-Key, or else made of its topic and id.
    """
    key = attributes.get("Idempotency-Key") or attributes.get("idempotency_key")
    return f"{topic}/{message_id}" if key is None else key


def _check_job_id(job_id: object) -> str:
    """Return a job id from a message.

    Raises RequestRefused for anything that cannot be one.
    """
    if isinstance(job_id, str) and re.fullmatch(JOB_ID, job_id):
        return job_id
    raise RequestRefused(
        [Problem(("job_id",), "this is not a valid job id", "bad_job_id", "leave it out of a new request")]
    )


def _problem(error: GemtuneError) -> Problem:
    """Turn an error into a problem of the whole request."""
    return Problem((), error.message, error.code, error.hint)
