"""The HTTP API: finds the route, calls it, and turns what it returns or raises into JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flask
from pydantic import BaseModel
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map, Rule

from gemtune import errors
from gemtune.bootstrap import Services
from gemtune.handlers import answers, routes
from gemtune.handlers.openapi import openapi
from gemtune.request.spec import ExportRequest, TrainRequest

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024

Route = Callable[..., BaseModel]


@dataclass(frozen=True, slots=True)
class Endpoint:
    call: Route
    success: int
    answer: type[BaseModel]
    body: type[BaseModel] | None = None


# One table: the router and the OpenAPI document are both made from it.
ENDPOINTS: Mapping[tuple[str, str], Endpoint] = {
    ("POST", "/train"): Endpoint(routes.train, 202, answers.Accepted, TrainRequest),
    ("GET", "/jobs"): Endpoint(routes.list_jobs, 200, answers.JobList),
    ("GET", "/jobs/<job_id>/status"): Endpoint(routes.status, 200, answers.JobStatus),
    ("GET", "/jobs/<job_id>/events"): Endpoint(routes.events, 200, answers.JobEvents),
    ("GET", "/jobs/<job_id>/metrics"): Endpoint(routes.metrics, 200, answers.LossHistory),
    ("GET", "/jobs/<job_id>/artifacts"): Endpoint(routes.artifacts, 200, answers.JobArtifacts),
    ("POST", "/jobs/<job_id>/exports"): Endpoint(routes.export, 202, answers.Accepted, ExportRequest),
    ("POST", "/jobs/<job_id>/cancel"): Endpoint(routes.cancel, 202, answers.JobStatus),
    ("DELETE", "/jobs/<job_id>"): Endpoint(routes.delete, 200, answers.Deleted),
    ("GET", "/health"): Endpoint(routes.health, 200, answers.Health),
}
ROUTER = Map(
    [Rule(path, methods=[method], endpoint=(method, path)) for method, path in ENDPOINTS]
    + [Rule("/openapi.json", methods=["GET"], endpoint="openapi")],
    strict_slashes=False,
)

# The nearest class of an error decides; anything else is our fault and says nothing of itself.
STATUS_CODES: Mapping[type[errors.GemtuneError], int] = {
    errors.RequestRefused: 422,
    errors.BadIdempotencyKey: 422,
    errors.BadPageToken: 422,
    errors.UnsafeName: 404,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.RecordUnreadable: 409,
    errors.NotFromHere: 403,
    errors.BodyTooLarge: 413,
    errors.NoSignedLinks: 501,
}


def respond(request: flask.Request, services: Services) -> flask.Response:
    """The answer to one request of the API."""
    try:
        services.callers.check(request)
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise errors.BodyTooLarge(MAX_BODY_BYTES)
        adapter = ROUTER.bind_to_environ(request.environ | {"SCRIPT_NAME": ""})
        found, arguments = adapter.match()
        if found == "openapi":
            return _json(openapi(ENDPOINTS), 200)
        endpoint = ENDPOINTS[found]
        return _answer(endpoint.call(request, services, **arguments), endpoint.success)
    except errors.GemtuneError as error:
        return _error(error)
    except HTTPException as error:
        return _routing_error(request, error)
    except Exception:
        # What the framework would answer with names the exception, which is for the log only.
        log.exception("%s %s broke", request.method, request.path)
        message = "something broke on our side"
        sentence = answers.ErrorSentence(code="internal", message=message, hint="try again; the log says more")
        return _answer(answers.ErrorAnswer(error=sentence), 500)


def _routing_error(request: flask.Request, error: HTTPException) -> flask.Response:
    code = "method_not_allowed" if isinstance(error, MethodNotAllowed) else "not_found"
    sentence = answers.ErrorSentence(code=code, message=f"{request.method} {request.path}: {error.name}", hint=HINT)
    response = _answer(answers.ErrorAnswer(error=sentence), error.code or 500)
    response.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
    return response


HINT = "see GET /openapi.json"


def _error(error: errors.GemtuneError) -> flask.Response:
    status = next((STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES), 500)
    if status == 500:
        log.exception("an error that no caller should see")
    sentence = answers.ErrorSentence(code=error.code, message=error.message, hint=error.hint)
    problems = None
    if isinstance(error, errors.RequestRefused):
        problems = [answers.ProblemAnswer.model_validate(problem.to_json()) for problem in error.problems]
    return _answer(answers.ErrorAnswer(error=sentence, problems=problems), status)


def _answer(body: BaseModel, status: int) -> flask.Response:
    without = {"problems"} if isinstance(body, answers.ErrorAnswer) and body.problems is None else None
    return flask.Response(body.model_dump_json(exclude=without), status, mimetype="application/json")


def _json(body: Any, status: int) -> flask.Response:
    return flask.Response(json.dumps(body), status, mimetype="application/json")
