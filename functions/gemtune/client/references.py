"""References to jobs and datasets: whole ids, parts of them, and names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gemtune.client.calls import Call, Operation
from gemtune.client.errors import BadUse, NoSingleJob, SeveralDatasets
from gemtune.datasets.uploads.record import ID_DIGITS

if TYPE_CHECKING:
    from gemtune.handlers import answers

# A whole id of a job, which needs no search (gemtune.jobs.ids).
WHOLE_ID = re.compile(r"(training|export)_[a-z0-9_-]+_[0-9a-f]{12}")
# A whole id of an uploaded dataset, which needs no search.
WHOLE_DATASET_ID = re.compile(rf"dataset_[0-9a-f]{{{ID_DIGITS}}}")
# Jobs that are searched for a part of an id or a name, newest first.
SEARCHED_JOBS, JOBS_PER_PAGE = 2000, 200
DATASETS_PER_PAGE = 200


def short_id(job_id: str) -> str:
    """Return the last part of a job's id, which names the job as well."""
    return job_id.rpartition("_")[2] if WHOLE_ID.fullmatch(job_id) else job_id


def find_job(reference: str) -> Operation[str]:
    """Return the id of a job by an id, a part of one at either end, or a name.

    A whole id is not looked up. Raises NoSingleJob if no job fits, or several, and BadUse for an empty reference, with
    which every id begins.
    """
    if not reference:
        raise BadUse("the id or name of a job is empty")
    if WHOLE_ID.fullmatch(reference):
        return reference
    listed = yield from list_jobs(limit=SEARCHED_JOBS)
    matches = list(_meant(reference, listed["jobs"]))
    if len(matches) != 1:
        raise NoSingleJob(reference, matches)
    return str(matches[0]["job_id"])


def find_dataset(reference: str) -> Operation[str]:
    """Return the id of a dataset by an id, the beginning of one, or a name.

    A whole id is not looked up, and a reference that fits no dataset is returned as it is, for the service to refuse.
    An id counts before a name, and a name before the beginning of an id. Raises SeveralDatasets if several fit, and
    BadUse for an empty reference, with which every id begins.
    """
    if not reference:
        raise BadUse("the id or name of a dataset is empty")
    if ".." in reference.split("/"):  # the path of the call would be that of something else, such as a job
        raise BadUse(f"{reference!r} is not the id or name of a dataset")
    if WHOLE_DATASET_ID.fullmatch(reference):
        return reference
    datasets = [(dataset.dataset_id, dataset.name) for dataset in (yield from list_datasets())]
    if any(dataset_id == reference for dataset_id, _ in datasets):
        return reference
    named = [dataset for dataset in datasets if dataset[1] == reference]
    matches = named or [dataset for dataset in datasets if dataset[0].startswith(reference)]
    if len(matches) > 1:
        raise SeveralDatasets(reference, matches)
    return matches[0][0] if matches else reference


def list_datasets() -> Operation[list[answers.Dataset]]:
    """Return all datasets, in the order of their folders."""
    from gemtune.handlers import answers  # the models of all answers, which most commands do not need

    datasets: list[answers.Dataset] = []
    after: str | None = None
    while True:
        params: dict[str, str | int] = {"limit": DATASETS_PER_PAGE} | ({} if after is None else {"after": after})
        page: answers.DatasetList = yield Call("GET", "/datasets", answers.DatasetList, params=params)
        datasets += page.datasets
        after = page.next_after
        if after is None:
            return datasets


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
