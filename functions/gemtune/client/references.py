"""References to jobs: whole ids, parts of them, and names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gemtune.client.calls import Call, Operation
from gemtune.client.errors import NoSingleJob

# A whole id of a job, which needs no search (gemtune.jobs.ids).
WHOLE_ID = re.compile(r"(training|export)_[a-z0-9_-]+_[0-9a-f]{12}")
# Jobs that are searched for a part of an id or a name, newest first.
SEARCHED_JOBS, JOBS_PER_PAGE = 2000, 200


def find_job(reference: str) -> Operation[str]:
    """Return the id of a job by an id, a part of one at either end, or a name.

    A whole id is not looked up. Raises NoSingleJob if no job fits, or several.
    """
    if WHOLE_ID.fullmatch(reference):
        return reference
    listed = yield from list_jobs(limit=SEARCHED_JOBS)
    matches = list(_meant(reference, listed["jobs"]))
    if len(matches) != 1:
        raise NoSingleJob(reference, matches)
    return str(matches[0]["job_id"])


def list_jobs(*, limit: int, status: str | None = None, modality: str | None = None) -> Operation[dict[str, Any]]:
    """Return the answer with the newest jobs, of as many pages as it takes.

    It is the last page's JSON, with the jobs of all of them, so that a service of another version can be asked as well.
    """
    jobs: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        size = min(JOBS_PER_PAGE, limit - len(jobs))
        filters = {"status": status, "modality": modality, "limit": size, "page_token": token}
        params = {name: value for name, value in filters.items() if value is not None}
        page: dict[str, Any] = yield Call("GET", "/jobs", params=params)
        jobs += page["jobs"]
        token = page["next_page_token"]
        if token is None or len(jobs) >= limit:
            return {**page, "jobs": jobs}


def _meant(reference: str, jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the jobs that a reference fits."""
    for job in jobs:
        job_id = str(job["job_id"])
        if job_id.startswith(reference) or job_id.endswith(f"_{reference}") or job["job_name"] == reference:
            yield job
