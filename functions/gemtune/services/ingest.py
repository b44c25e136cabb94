"""Ingestion of job files.

An uploaded file becomes a job, and the answer is written next to the file.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import Any

from gemtune.errors import GemtuneError, JobWasDeleted, ObjectNotFound, Problem, RequestRefused, UnsafeName
from gemtune.jobs.sources import Source
from gemtune.object_name import is_safe
from gemtune.ports import Buckets, Objects
from gemtune.request import parsing
from gemtune.request.uploads.job_file import as_json
from gemtune.services.acceptance.create_job import Submission
from gemtune.services.acceptance.submit import Submit
from gemtune.untrusted import MAX_BYTES, MAX_YAML_BYTES, Unreadable

log = logging.getLogger(__name__)

# Files that people drop as requests without the name of a job file, and words by which a request is recognized.
LIKE_A_JOB_FILE = re.compile(r"^(?P<stem>(?:.*/)?[^/]+)\.(?:json|yaml|yml)$")
ANSWER = re.compile(r"\.(?:accepted|rejected)\.json$")
WORDS_OF_REQUESTS = (b"training_config", b"processed_dataset_id")
JOB_FILE = re.compile(r"^(?P<stem>(?:.*/)?[^/]+)\.job\.(?P<kind>json|yaml)$")
IN_A_DATASET = re.compile(r"^processed_datasets/(?P<dataset>[^/]+)/[^/]+$")


def _answers(name: str) -> tuple[str, str]:
    """Return the names of the two possible answers to a job file.

    The first one accepts, the second one rejects.
    """
    match = JOB_FILE.match(name)
    assert match is not None
    return f"{match['stem']}.accepted.json", f"{match['stem']}.rejected.json"


def _last_bytes(text: str, count: int) -> str:
    """Return the last `count` bytes of a text.

    A partial character at their beginning is left out.
    """
    return text.encode()[-count:].decode(errors="ignore")


def is_job_file(buckets: Buckets, bucket: str, name: str) -> bool:
    """Return whether an object is a job file.

    That is any `*.job.json` or `*.job.yaml` in the uploads bucket, or in the folder of a dataset.
    """
    if JOB_FILE.match(name) is None:
        return False
    in_a_dataset = bucket == buckets.data.bucket and IN_A_DATASET.match(name) is not None
    return bucket == buckets.uploads.bucket or in_a_dataset


def may_be_request(buckets: Buckets, bucket: str, name: str) -> bool:
    """Return whether an object of the uploads bucket may be a request.

    Its name is that of no job file, and its content has to tell.
    """
    is_other = JOB_FILE.match(name) is not None or ANSWER.search(name) is not None
    return bucket == buckets.uploads.bucket and not is_other and LIKE_A_JOB_FILE.match(name) is not None


@dataclass(frozen=True, slots=True)
class Ingest:
    """Service that accepts requests from job files."""

    buckets: Buckets
    submit: Submit

    def __call__(self, bucket: str, name: str, generation: str, *, owner: str) -> None:
        """Create the job of a job file that was uploaded, and answer it.

        A request in a file of another name is answered, too: it needs the name of a job file. Other objects are
        ignored, and so is a generation that was replaced: the new one has an event of its own.
        """
        objects = self.buckets.named(bucket)
        if objects is not None and may_be_request(self.buckets, bucket, name):
            self._answer_misnamed(objects, name)
            return
        if objects is None or not is_job_file(self.buckets, bucket, name):
            return
        if not all(is_safe(answer) for answer in (name, *_answers(name))):
            log.warning(
                "a job file in %s cannot be answered, because its name is too long or not valid: %r", bucket, name[:300]
            )
            return
        if objects.generation(name) != generation:
            return
        try:
            reading = parsing.read(self._document(objects, name), Source.UPLOAD)
            if objects.generation(name) != generation:  # the content may be that of the next generation
                return
            key = f"{bucket}/{name}#{generation}"
            job = self.submit(
                Submission(reading, source=Source.UPLOAD, owner=owner, idempotency_key=_last_bytes(key, 1024))
            )
        except RequestRefused as error:
            self._answer(objects, name, "rejected", {"errors": [problem.to_json() for problem in error.problems]})
        except (JobWasDeleted, ObjectNotFound) as error:
            log.info("ignored a late event of %s: %s", name, error)
        except GemtuneError as error:
            problem = Problem((), error.message, error.code, error.hint)
            self._answer(objects, name, "rejected", {"errors": [problem.to_json()]})
        else:
            self._answer(objects, name, "accepted", {"job_id": job.job_id})

    def _answer_misnamed(self, objects: Objects, name: str) -> None:
        """Reject a request whose file has another name than a job file.

        Nothing is done for a file with other content, such as the config.json of a base model.
        """
        try:
            content = objects.read(name, max_bytes=MAX_BYTES)
        except (ObjectNotFound, UnsafeName, Unreadable):
            return
        match = LIKE_A_JOB_FILE.match(name)
        assert match is not None
        if not any(word in content for word in WORDS_OF_REQUESTS) or not is_safe(f"{match['stem']}.rejected.json"):
            return
        ending = "json" if name.endswith(".json") else "yaml"
        stem = match["stem"].removesuffix(".job")
        message = "this looks like a request, but the name of a job file ends in .job.json or .job.yaml"
        hint = f"upload it as {stem.rpartition('/')[2]}.job.{ending}"
        problem = Problem((), message, "not_a_job_file", hint)
        rejection = {"file": name, "errors": [problem.to_json()]}
        objects.write(f"{match['stem']}.rejected.json", json.dumps(rejection, indent=2).encode())

    def _document(self, objects: Objects, name: str) -> str:
        """Return the request of a job file as JSON.

        A file in the folder of a dataset need not name the dataset. Raises RequestRefused, ObjectNotFound.
        """
        yaml = name.endswith(".yaml")
        max_bytes = MAX_YAML_BYTES if yaml else MAX_BYTES
        try:
            content = objects.read(name, max_bytes=max_bytes)
        except Unreadable as error:
            message = f"a job file in {'YAML' if yaml else 'JSON'} may have at most {max_bytes} bytes"
            raise RequestRefused([Problem((), message, error.code, "put the rows into the dataset")]) from None
        body = as_json(content, yaml=yaml)
        match = IN_A_DATASET.match(name) if objects.bucket == self.buckets.data.bucket else None
        if match is None or not isinstance(body, dict):
            return json.dumps(body)
        dataset = match["dataset"]
        if body.setdefault("processed_dataset_id", dataset) != dataset:
            message = "the file is in the folder of another dataset"
            raise RequestRefused([Problem(("processed_dataset_id",), message, "other_dataset", "leave the field out")])
        return json.dumps(body)

    def _answer(self, objects: Objects, name: str, verdict: str, body: dict[str, Any]) -> None:
        """Write the answer to this generation of a job file.

        Removes the opposite answer to an earlier generation.
        """
        accepted, rejected = _answers(name)
        answer, other = (accepted, rejected) if verdict == "accepted" else (rejected, accepted)
        objects.write(answer, json.dumps({"file": name} | body, indent=2).encode())
        objects.delete(other)
