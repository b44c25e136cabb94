"""References to jobs: whole ids, parts of them, and names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gemtune.client.calls import Call, Operation
from gemtune.client.errors import NoSingleJob

# A whole id of a job, which needs no search (gemtune.jobs.ids).
WHOLE_ID = re.compile(r"(training|export)_[a-z0-9_-]+_[0-9a-f]{12}")
# Pages of jobs that are searched for a part of an id or a name, newest first.
SEARCHED_PAGES, JOBS_PER_PAGE = 10, 200


def find_job(reference: str) -> Operation[str]:
    """Return the id of a job by an id, a part of one at either end, or a name.

    A whole id is not looked up. Answers are read as JSON, so that a service of another version can be searched as well.
    Raises NoSingleJob if no job fits, or several.
    """
    if WHOLE_ID.fullmatch(reference):
        return reference
    matches: list[dict[str, Any]] = []
    params: dict[str, str | int] = {"limit": JOBS_PER_PAGE}
    for _ in range(SEARCHED_PAGES):
        page: dict[str, Any] = yield Call("GET", "/jobs", params=dict(params))
        matches += _meant(reference, page["jobs"])
        if page["next_page_token"] is None:
            break
        params["page_token"] = page["next_page_token"]
    if len(matches) != 1:
        raise NoSingleJob(reference, matches)
    return str(matches[0]["job_id"])


def _meant(reference: str, jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the jobs that a reference fits."""
    for job in jobs:
        job_id = str(job["job_id"])
        if job_id.startswith(reference) or job_id.endswith(f"_{reference}") or job["job_name"] == reference:
            yield job
