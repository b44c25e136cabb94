"""Operations of clients: single calls, and those of several calls."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gemtune.checks.row import CheckedRow
from gemtune.client import curves, uploads
from gemtune.client.calls import Call, Operation, Pause
from gemtune.client.errors import BadUse, JobFailed, Refused, Unreachable
from gemtune.client.references import JOBS_PER_PAGE
from gemtune.client.request import TrainOptions, request_of
from gemtune.client.uploads import LocalDataset, Report
from gemtune.handlers import answers
from gemtune.jobs.events import Event
from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.parts.results import JobWarning
from gemtune.jobs.record import JobSummary
from gemtune.jobs.status import Status, is_final

Answer = TypeVar("Answer")
POLL_SECONDS = 1.0
# Lines of output that are kept unless the caller wants another number: a noisy job may have written gigabytes.
LOG_LINES = 10_000
# Seconds between two questions about a check: the first one, and the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 3.0
# Seconds that a service may be unreachable while a job is waited for, as during a restart.
PATIENCE_SECONDS = 120.0


class WarnedPlan(Plan):
    """Plan of a training, with the warnings about it."""

    warnings: tuple[JobWarning, ...] = ()

    @classmethod
    def of(cls, planned: answers.Planned) -> WarnedPlan:
        """Return the plan and the warnings of an answer as one."""
        return cls(**{**dict(planned.plan), "warnings": tuple(planned.warnings)})


def get(path: str, answer: type[Answer], **params: str | int | None) -> Call[Answer]:
    """Return a call that reads; parameters that are None are left out."""
    return Call("GET", path, answer, params={name: value for name, value in params.items() if value is not None})


def no_report(sent: int, total: int) -> None:
    """Report nothing about an upload."""


def read_options(
    request: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any], LocalDataset | None, str]:
    """Return a request, the files to upload for it, and their name.

    Raises BadUse, NoSuchColumn.
    """
    for name in options.keys() - TrainOptions.__annotations__.keys():
        near = difflib.get_close_matches(name, TrainOptions.__annotations__, n=1)
        meant = f", did you mean {near[0]}?" if near else "; `fields` takes any field of a request"
        raise BadUse(f"there is no option {name}{meant}")
    data, held_out = options.get("data"), options.get("eval")
    if data is not None and options.get("dataset") is not None:
        raise BadUse("data and dataset both say what to train on: leave out one of them")
    body = request_of(options, request)
    if data is None:
        if held_out is not None:
            raise BadUse("rows to evaluate on go with `data`")
        return body, None, ""
    path = Path(data).expanduser()
    if not path.exists():
        raise BadUse(f"there is no file {path}")
    files = uploads.files_of(path, None if held_out is None else Path(held_out).expanduser())
    uploads.check_columns(files, body.get("dataset_columns"))
    return body, files, path.resolve().name


def provide(files: LocalDataset, name: str, report: Report = no_report) -> Operation[str]:
    """Return the id of the dataset of files, which are sent if need be.

    A dataset that the service has already keeps its name and tags.
    """
    dataset = yield from uploads.find(files)
    if dataset is None or dataset.status != "ready":
        dataset = yield from uploads.begin(files, name=name, tags=())
        dataset = yield from uploads.send_missing(dataset, files, report)
    return dataset.dataset_id


def train(
    request: dict[str, Any], files: LocalDataset | None, name: str, *, key: str | None, report: Report = no_report
) -> Operation[answers.Accepted]:
    """Submit a request, after uploading its files."""
    if files is not None:
        request["processed_dataset_id"] = yield from provide(files, name, report)
    headers = {} if key is None else {"Idempotency-Key": key}
    accepted: answers.Accepted = yield Call("POST", "/train", answers.Accepted, json=request, headers=headers)
    return accepted


def plan(
    request: dict[str, Any], files: LocalDataset | None, name: str, report: Report = no_report
) -> Operation[answers.Planned]:
    """Return the plan of a request, which creates nothing.

    files: rows to train on. The service counts what is in them, so they are sent, and deleted again if it did not have
    them before.
    """
    is_new = files is not None and (yield from uploads.find(files)) is None
    try:
        if files is not None:
            request["processed_dataset_id"] = yield from provide(files, name, report)
        planned: answers.Planned = yield Call(
            "POST", "/train", answers.Planned, json=request, params={"dry_run": "true"}
        )
    finally:
        if files is not None and is_new:
            yield from _forget(files.dataset_id)
    return planned


def _forget(dataset_id: str) -> Operation[None]:
    """Delete a dataset, unless a job uses it by now."""
    try:
        yield Call("DELETE", f"/datasets/{dataset_id}", answers.DatasetDeleted)
    except Refused as error:
        if error.status not in (404, 409):
            raise


def list_jobs(*, status: str | None, modality: str | None, limit: int | None) -> Operation[list[JobSummary]]:
    """Return jobs, newest first; all of them if the limit is None."""
    jobs: list[JobSummary] = []
    token = None
    while limit is None or len(jobs) < limit:
        size = JOBS_PER_PAGE if limit is None else min(JOBS_PER_PAGE, limit - len(jobs))
        call = get("/jobs", answers.JobList, status=status, modality=modality, limit=size, page_token=token)
        page: answers.JobList = yield call
        jobs += page.jobs
        token = page.next_page_token
        if token is None:
            break
    return jobs


def check_request(
    model: str,
    training_config: Mapping[str, Any] | None,
    columns: Mapping[str, str | None] | None,
    fields: Mapping[str, Any] | None,
    *,
    samples: int,
) -> dict[str, Any]:
    """Return the request for a check of a dataset."""
    body = {"base_model_id": model, "training_config": dict(training_config or {}), "samples": samples}
    return body | ({} if columns is None else {"dataset_columns": dict(columns)}) | dict(fields or {})


def check_dataset(dataset_id: str, request: Mapping[str, Any]) -> Operation[answers.DatasetCheck]:
    """Return the check of a dataset once it is over.

    request: fields of the one that would train, and `samples`.
    """
    path = f"/datasets/{dataset_id}/check"
    state: answers.DatasetCheck = yield Call("POST", path, answers.DatasetCheck, json=dict(request))
    pause = FIRST_PAUSE_SECONDS
    while state.status == "running":
        yield Pause(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        state = yield get(f"{path}s/{state.check_id}", answers.DatasetCheck)
    return state


def list_rows(dataset_id: str, *, split: str | None, limit: int) -> Operation[list[CheckedRow]]:
    """Return the first rows of a split of a dataset."""
    rows: list[CheckedRow] = []
    after: str | None = None
    while len(rows) < limit:
        size = min(200, limit - len(rows))
        path = f"/datasets/{dataset_id}/rows"
        page: answers.DatasetRows = yield get(path, answers.DatasetRows, split=split, limit=size, after=after)
        rows += page.rows
        after = page.next_after
        if after is None:
            break
    return rows


def list_files(dataset_id: str) -> Operation[list[answers.DatasetFileLink]]:
    """Return the files of a dataset, with links."""
    files: list[answers.DatasetFileLink] = []
    after: int | None = 0
    while after is not None:
        path = f"/datasets/{dataset_id}/files"
        page: answers.DatasetFiles = yield get(path, answers.DatasetFiles, limit=200, after=after)
        files += page.files
        after = page.next_after
    return files


def read_logs(job_id: str, step: str | None, tail: int | None) -> Operation[list[answers.JobLogLine]]:
    """Return the output of a job's steps, or its last `tail` lines.

    Raises BadUse for a negative number of lines.
    """
    if tail is not None and tail < 0:
        raise BadUse(f"tail is a number of lines, or None for all, not {tail}")
    lines: deque[answers.JobLogLine] = deque(maxlen=tail)
    after: str | None = None
    while True:
        page: answers.JobLogs = yield get(f"/jobs/{job_id}/logs", answers.JobLogs, step=step, after=after)
        lines += page.lines
        after = page.next_after or after
        if not page.more:
            return list(lines)


def list_events(job_id: str) -> Operation[list[Event]]:
    """Return all events of a job."""
    events: list[Event] = []
    while True:
        after = events[-1].seq if events else 0
        page: answers.JobEvents = yield get(f"/jobs/{job_id}/events", answers.JobEvents, after=after)
        if not page.events:
            return events
        events += page.events


def watch(job_id: str, show: Callable[[str], None]) -> Operation[answers.JobStatus]:
    """Show the loss curve of a job until it is over, and return its status.

    Outages of the service of up to PATIENCE_SECONDS do not matter. show: called with the curve as SVG.
    """

    def look() -> Operation[answers.JobStatus]:
        job: answers.JobStatus = yield get(f"/jobs/{job_id}/status", answers.JobStatus)
        history: answers.LossHistory = yield get(f"/jobs/{job_id}/metrics", answers.LossHistory)
        waiting = "" if job.waiting is None else ", waiting for a machine"
        show(curves.draw(history.metrics, f"{job.job_name or job_id}: {job.status}{waiting}"))
        return job

    return (yield from _look_until_over(job_id, look, timeout=None))


def wait(job_id: str, *, timeout: float | None, check: bool) -> Operation[answers.JobStatus]:
    """Return the status of a job once it is over.

    Outages of the service of up to PATIENCE_SECONDS do not matter. timeout: seconds to wait at most. check: whether a
    job that is not completed raises JobFailed. Raises TimeoutError.
    """

    def look() -> Operation[answers.JobStatus]:
        status: answers.JobStatus = yield get(f"/jobs/{job_id}/status", answers.JobStatus)
        return status

    job = yield from _look_until_over(job_id, look, timeout=timeout)
    if check and job.status != Status.COMPLETED:
        detail = job.error_detail
        code, hint = (None, None) if detail is None else (detail.code, detail.hint)
        raise JobFailed(job_id, str(job.status), code, job.error or "", hint)
    return job


def _look_until_over(
    job_id: str, look: Callable[[], Operation[answers.JobStatus]], *, timeout: float | None
) -> Operation[answers.JobStatus]:
    """Look at a job again and again, and return its status once it is over.

    See `wait`. look: returns the status.
    """
    waited = away = 0.0
    while True:
        try:
            job = yield from look()
        except Unreachable:
            away += POLL_SECONDS
            if away > PATIENCE_SECONDS:
                raise
        else:
            away = 0.0
            if is_final(str(job.status), job.finished_at):
                return job
        if timeout is not None and waited >= timeout:
            raise TimeoutError(f"job {job_id} is not over after {timeout:g} s")
        yield Pause(POLL_SECONDS)
        waited += POLL_SECONDS
