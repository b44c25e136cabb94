"""Turns an uploaded job file into a job, and answers beside the file."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import Any

from gemtune.errors import GemtuneError, JobWasDeleted, ObjectNotFound, Problem, RequestRefused
from gemtune.jobs.sources import Source
from gemtune.object_name import is_safe
from gemtune.ports import Buckets, Objects
from gemtune.request import parsing
from gemtune.request.job_file import as_json
from gemtune.services.acceptance.create_job import Submission
from gemtune.services.acceptance.submit import Submit
from gemtune.untrusted import MAX_BYTES, MAX_YAML_BYTES, Unreadable

log = logging.getLogger(__name__)

JOB_FILE = re.compile(r"^(?P<stem>(?:.*/)?[^/]+)\.job\.(?P<kind>json|yaml)$")
BESIDE_A_DATASET = re.compile(r"^processed_datasets/(?P<dataset>[^/]+)/[^/]+$")


def _answers(name: str) -> tuple[str, str]:
    """What the two answers to a job file are called."""
    found = JOB_FILE.match(name)
    assert found is not None
    return f"{found['stem']}.accepted.json", f"{found['stem']}.rejected.json"


def _last_bytes(text: str, count: int) -> str:
    """The end of a text, which tells most, cut between characters."""
    return text.encode()[-count:].decode(errors="ignore")


def is_job_file(buckets: Buckets, bucket: str, name: str) -> bool:
    """Whether an object asks for a job: any `*.job.json|yaml` of the uploads bucket, and those beside a dataset."""
    if JOB_FILE.match(name) is None:
        return False
    beside = bucket == buckets.data.bucket and BESIDE_A_DATASET.match(name) is not None
    return bucket == buckets.uploads.bucket or beside


@dataclass(frozen=True, slots=True)
class Ingest:
    buckets: Buckets
    submit: Submit

    def __call__(self, bucket: str, name: str, generation: str, *, owner: str) -> None:
        """An object was finalized. Anything but a job file is passed over, and so is a generation that was replaced:
        the one that replaced it brings an event of its own."""
        objects = self.buckets.named(bucket)
        if objects is None or not is_job_file(self.buckets, bucket, name):
            return
        if not all(is_safe(answer) for answer in (name, *_answers(name))):
            log.warning("a job file of %s cannot be answered: its name is too long, or none: %r", bucket, name[:300])
            return
        if objects.generation(name) != generation:
            return
        try:
            reading = parsing.read(self._document(objects, name), Source.UPLOAD)
            if objects.generation(name) != generation:  # what was read may be the next one's already
                return
            key = f"{bucket}/{name}#{generation}"
            job = self.submit(
                Submission(reading, source=Source.UPLOAD, owner=owner, idempotency_key=_last_bytes(key, 1024))
            )
        except RequestRefused as error:
            self._answer(objects, name, "rejected", {"errors": [problem.to_json() for problem in error.problems]})
        except (JobWasDeleted, ObjectNotFound) as error:
            log.info("a late event of %s: %s", name, error)
        except GemtuneError as error:
            problem = Problem((), error.message, error.code, error.hint)
            self._answer(objects, name, "rejected", {"errors": [problem.to_json()]})
        else:
            self._answer(objects, name, "accepted", {"job_id": job.job_id})

    def _document(self, objects: Objects, name: str) -> str:
        """The request of a job file as JSON; beside a dataset it may leave out which one it means."""
        yaml = name.endswith(".yaml")
        most = MAX_YAML_BYTES if yaml else MAX_BYTES
        try:
            content = objects.read(name, max_bytes=most)
        except Unreadable as error:
            message = f"a job file of this kind has at most {most} bytes"
            raise RequestRefused([Problem((), message, error.code, "put the rows into the dataset")]) from None
        body = as_json(content, yaml=yaml)
        beside = BESIDE_A_DATASET.match(name) if objects.bucket == self.buckets.data.bucket else None
        if beside is None or not isinstance(body, dict):
            return json.dumps(body)
        dataset = beside["dataset"]
        if body.setdefault("processed_dataset_id", dataset) != dataset:
            message = "the file lies beside another dataset"
            raise RequestRefused([Problem(("processed_dataset_id",), message, "other_dataset", "leave the field out")])
        return json.dumps(body)

    def _answer(self, objects: Objects, name: str, verdict: str, body: dict[str, Any]) -> None:
        """Write the answer to this generation and take back the one to an earlier."""
        accepted, rejected = _answers(name)
        given, other = (accepted, rejected) if verdict == "accepted" else (rejected, accepted)
        objects.write(given, json.dumps({"file": name} | body, indent=2).encode())
        objects.delete(other)
