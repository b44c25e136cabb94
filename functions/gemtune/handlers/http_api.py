"""HTTP API.

It finds the operation of a request, calls its route, and converts the result or the error to JSON.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from gemtune import errors
from gemtune.bootstrap import Services
from gemtune.handlers import error_answers
from gemtune.handlers.description.endpoint import FAULT, Binary, Endpoint, status_of
from gemtune.handlers.description.parameters import argument_name, check_query, decode_parameter
from gemtune.handlers.endpoints import ENDPOINTS

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
# Largest body that any endpoint accepts; a server may refuse a larger one without reading it.
LARGEST_BODY_BYTES = max(
    MAX_BODY_BYTES, *(endpoint.body.max_bytes for endpoint in ENDPOINTS if isinstance(endpoint.body, Binary))
)

ROUTER = Map(
    [
        Rule(re.sub(r"{(\w+)}", r"<\1>", endpoint.path), methods=[endpoint.method], endpoint=endpoint)
        for endpoint in ENDPOINTS
    ],
    strict_slashes=False,
    merge_slashes=False,  # the answer to `//jobs` would be a redirect in HTML
)


def respond(request: flask.Request, services: Services) -> flask.Response:
    """Answer one request of the API."""
    try:
        services.callers.check(request)
        endpoint, parts = ROUTER.bind_to_environ(request.environ | {"SCRIPT_NAME": ""}).match()
        max_bytes = endpoint.body.max_bytes if isinstance(endpoint.body, Binary) else MAX_BODY_BYTES
        if (request.content_length or 0) > max_bytes:
            raise errors.BodyTooLarge(max_bytes, is_file=isinstance(endpoint.body, Binary))
        answer = endpoint.route(services, **parts, **_arguments(endpoint, request, services))
        return error_answers.with_version(
            flask.Response(answer.model_dump_json(), endpoint.success, mimetype=error_answers.JSON)
        )
    except errors.GemtuneError as error:
        return _refusal(error)
    except HTTPException as error:
        return error_answers.routing_error(request, error)
    except Exception:
        # The framework's own answer would name the exception, which is only for the log.
        log.exception("%s %r failed", request.method, request.path[:200])
        return _fault()


def _arguments(endpoint: Endpoint, request: flask.Request, services: Services) -> dict[str, Any]:
    """Return the keyword arguments of a route, without the path's parts.

    Raises RequestRefused.
    """
    check_query(endpoint.parameters, request.args)
    arguments: dict[str, Any] = {}
    for parameter in endpoint.parameters:
        source = request.args if parameter.place == "query" else request.headers
        arguments[argument_name(parameter)] = decode_parameter(parameter, source.getlist(parameter.name))
    if isinstance(endpoint.body, Binary) or endpoint.body is not None:
        arguments["body"] = request.get_data()
    if _takes_owner(endpoint.route):
        arguments["owner"] = services.callers.owner(request)
    return arguments


@cache
def _takes_owner(route: Callable[..., object]) -> bool:
    return "owner" in inspect.signature(route).parameters


def _refusal(error: errors.GemtuneError) -> flask.Response:
    """Return the response to a GemtuneError.

    An error without a status is an internal one.
    """
    status, _ = status_of(type(error))
    if status == FAULT[0]:
        log.exception("an error that no caller should see")
        return _fault()
    if isinstance(error, errors.CannotStore):
        log.exception("nothing could be stored")
    problems = error.problems if isinstance(error, errors.RequestRefused) else None
    return error_answers.response(status, error.code, error.message, error.hint, problems)


def _fault() -> flask.Response:
    """Return the response to an internal error, without details."""
    return error_answers.response(FAULT[0], "internal", "the service failed", "try again; its log has the details")
