"""Errors of a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemtune.errors import GemtuneError


class ClientError(Exception):
    """Base of all errors of a client."""


class BadUse(ClientError, ValueError):
    """Raised if the arguments of a call cannot be used."""


class NoSingleJob(BadUse):
    """Raised if a reference fits no job, or several.

    jobs: those that it fits, as the service lists them.
    """

    def __init__(self, reference: str, jobs: Sequence[Mapping[str, Any]]):
        ids = ", ".join(str(job["job_id"]) for job in jobs[:10])
        count = "no job has" if not jobs else f"{len(jobs)} jobs have"
        super().__init__(f"{count} an id or a name like {reference!r}" + (f": {ids}" if jobs else ""))
        self.reference, self.jobs = reference, jobs


class SeveralDatasets(BadUse):
    """Raised if a reference fits several datasets.

    datasets: pairs of an id and a name.
    """

    def __init__(self, reference: str, datasets: Sequence[tuple[str, str | None]]):
        ids = ", ".join(dataset_id for dataset_id, _ in datasets[:10])
        super().__init__(f"{len(datasets)} datasets have an id or a name like {reference!r}: {ids}")
        self.reference, self.datasets = reference, datasets


class Unreachable(ClientError):
    """Raised if the service does not respond."""


class UploadInterrupted(Unreachable):
    """Raised if the service stays away during an upload.

    The parts that were sent are kept, and the same upload goes on there.
    """


class StorageUnreachable(ClientError):
    """Raised if the host of links does not respond, while the service may."""


class LinkRefused(ClientError):
    """Raised if the storage refuses an upload by a link.

    status: HTTP status. code: of Cloud Storage, such as `ExpiredToken`.
    """

    def __init__(self, host: str, status: int, code: str):
        super().__init__(f"{host} refused a part with HTTP {status}" + (f", {code}" if code else ""))
        self.status, self.code = status, code


class Refused(ClientError):
    """Raised if the service answers with an error.

    status: HTTP status. code: for programs. hint: what to do about it. problems: everything that is wrong with the
    request. body: the answer as it came.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        problems: tuple[dict[str, Any], ...] = (),
        body: str = "",
    ):
        if problems:  # message and hint are those of the first one
            lines = [f"{code}:", *map(_describe, problems)]
        else:
            lines = [f"{code}: {message}", *([hint] if hint else [])]
        super().__init__("\n".join(lines))
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.problems, self.body = problems, body


class NotAnAnswer(ClientError):
    """Raised if something else than a gemtune service of this version answers.

    body: the answer, of which the message has the beginning.
    """

    def __init__(self, url: str, status: int, body: str):
        self.status = status
        super().__init__(f"{url} does not answer as a gemtune service does (HTTP {status}): {body.strip()[:500]}")


class JobFailed(ClientError):
    """Raised if a job that was waited for failed or was cancelled.

    code: of the failure; None if it was cancelled. hint: what to do about it.
    """

    def __init__(self, job_id: str, status: str, code: str | None, message: str, hint: str | None):
        cause = "" if code is None else f": {message} ({code})"
        super().__init__(f"job {job_id} is {status}{cause}" + (f"\n{hint}" if hint else ""))
        self.job_id, self.status, self.code, self.hint = job_id, status, code, hint


class NoSuchColumn(ClientError, GemtuneError):
    """Raised if no row of a file has the column of a field, before it is sent.

    hint: what to do about it.
    """

    code = "no_such_column"

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f"\n{self.hint}" if self.hint else "")


class BadDownload(ClientError):
    """Raised if a download differs from the job's record or is rejected."""


def _describe(problem: Mapping[str, Any]) -> str:
    """Return a problem of a request as a line, and its hint as another."""
    line = f"{field_of(problem)}: {problem['msg']} ({problem['code']})"
    return f"{line}\n  {problem['hint']}" if problem.get("hint") else line


def field_of(problem: Mapping[str, Any]) -> str:
    """Return the name of the field that a problem of a request is about."""
    return ".".join(map(str, problem["loc"])) or "request"
