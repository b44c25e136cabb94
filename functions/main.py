"""The entry points of the Cloud Functions; in the embedded backend one local process serves the same ones."""

from __future__ import annotations

import flask
import functions_framework
from cloudevents.http import CloudEvent
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from gemtune.bootstrap import services


def not_routed(error: HTTPException) -> flask.Response:
    """Answer in JSON what reaches no function, where the framework would answer in HTML."""
    from gemtune.handlers import error_answers

    return error_answers.of_routing(flask.request, error)


def refuse_what_flask_answers() -> None:
    """Answer 404 where Flask would look for a static file, or redirect `/jobs//x` to a path with fewer slashes."""
    if flask.request.endpoint == "static" or isinstance(flask.request.routing_exception, RequestRedirect):
        flask.abort(404)


if flask.has_app_context():  # the framework imports this file within its application
    flask.current_app.register_error_handler(HTTPException, not_routed)
    flask.current_app.before_request(refuse_what_flask_answers)


@functions_framework.http
def api(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """The HTTP API."""
    from gemtune.handlers import http_api

    return http_api.respond(request, services())


@functions_framework.http
def control(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """For the workflow only."""
    from gemtune.handlers import control_api

    return control_api.respond(request, services())


@functions_framework.http
def sweep(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """For the scheduler only."""
    services().sweep()
    return {"swept": True}


@functions_framework.cloud_event
def dispatch(event: CloudEvent) -> None:
    """Pub/Sub, topic job-requests."""
    from gemtune.handlers import cloud_events

    cloud_events.dispatch(event, services())


@functions_framework.cloud_event
def notify(event: CloudEvent) -> None:
    """Pub/Sub, topic webhooks."""
    from gemtune.handlers import cloud_events

    cloud_events.notify(event, services())


@functions_framework.cloud_event
def ingest(event: CloudEvent) -> None:
    """Cloud Storage, object finalized."""
    from gemtune.handlers import cloud_events

    cloud_events.ingest(event, services())


@functions_framework.cloud_event
def fan_out(event: CloudEvent) -> None:
    """Firestore, document created."""
    from gemtune.handlers import cloud_events

    cloud_events.fan_out(event, services())
