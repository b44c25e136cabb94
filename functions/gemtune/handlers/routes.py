"""What each route of the API does: decode, call one service, encode."""

from __future__ import annotations

import flask

from gemtune.bootstrap import Services
from gemtune.errors import Problem, RequestRefused
from gemtune.handlers import answers
from gemtune.handlers.artifact_links import artifact_links
from gemtune.handlers.loss_history import loss_history
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Status
from gemtune.request import parsing as requests
from gemtune.request.parsing import Reading, Request
from gemtune.services.acceptance.create_job import Submission
from gemtune.untrusted import MAX_NUMBER, Unreadable, read_number

MAX_PAGE = 200


def train(request: flask.Request, services: Services) -> answers.Accepted:
    reading = requests.read(request.get_data(), Source.HTTP)
    return answers.Accepted(job_id=services.submit(_submission(reading, request, services)).job_id)


def export(request: flask.Request, services: Services, *, job_id: str) -> answers.Accepted:
    reading = requests.read_export(request.get_data())
    job = services.export_again(job_id, _submission(reading, request, services))
    return answers.Accepted(job_id=job.job_id)


def list_jobs(request: flask.Request, services: Services) -> answers.JobList:
    limit = _whole_number(request, "limit", default=50, least=1, most=MAX_PAGE)
    status = _one_of(request, "status", [status.value for status in Status])
    modality = _one_of(request, "modality", ["text", "vision"])
    page = services.store.page(
        status=None if status is None else Status(status),
        modality=modality,
        limit=limit,
        page_token=request.args.get("page_token"),
    )
    return answers.JobList(jobs=page.jobs, next_page_token=page.next_page_token)


def status(request: flask.Request, services: Services, *, job_id: str) -> answers.JobStatus:
    return answers.JobStatus.of(services.store.get(job_id))


def events(request: flask.Request, services: Services, *, job_id: str) -> answers.JobEvents:
    return answers.JobEvents(events=services.store.events(job_id, after=_whole_number(request, "after", default=0)))


def metrics(request: flask.Request, services: Services, *, job_id: str) -> answers.LossHistory:
    job = services.store.get(job_id)
    after = _whole_number(request, "after", default=-1)
    return answers.LossHistory(metrics=loss_history(services.buckets.export, job.job_id, after=after))


def artifacts(request: flask.Request, services: Services, *, job_id: str) -> answers.JobArtifacts:
    return answers.JobArtifacts(artifacts=artifact_links(services.buckets.export, services.store.get(job_id)))


def cancel(request: flask.Request, services: Services, *, job_id: str) -> answers.JobStatus:
    return answers.JobStatus.of(services.cancel(job_id))


def delete(request: flask.Request, services: Services, *, job_id: str) -> answers.Deleted:
    services.delete(job_id)
    return answers.Deleted(job_id=job_id)


def health(request: flask.Request, services: Services) -> answers.Health:
    return answers.Health()


def _submission(reading: Reading[Request], request: flask.Request, services: Services) -> Submission[Request]:
    key = request.headers.get("Idempotency-Key")
    return Submission(reading, source=Source.HTTP, owner=services.callers.owner(request), idempotency_key=key)


def _whole_number(request: flask.Request, name: str, *, default: int, least: int = 0, most: int = MAX_NUMBER) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    try:
        return read_number(text, least=least, most=most, named=name)
    except Unreadable as error:
        raise RequestRefused([Problem(("query", name), error.message, error.code, error.hint)]) from None


def _one_of(request: flask.Request, name: str, known: list[str]) -> str | None:
    value = request.args.get(name)
    if value is None or value in known:
        return value
    raise RequestRefused([Problem(("query", name), f"no such {name}", "not_one_of", f"use one of {', '.join(known)}")])
