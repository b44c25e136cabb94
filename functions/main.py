"""Entry points of the Cloud Functions.

A workstation serves `api` and `control` from one local process, and passes messages and triggers directly to the
services behind the others.
"""

from __future__ import annotations

import flask
import functions_framework
from cloudevents.http import CloudEvent
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from gemtune.bootstrap import services


def answer_in_json(error: HTTPException) -> flask.Response:
    """Answer an HTTP error with JSON instead of the framework's HTML.

    For requests that reach no function: an unknown path, or a method that is not allowed.
    """
    from gemtune.handlers import error_answers

    return error_answers.routing_error(flask.request, error)


def reject_static_files_and_redirects() -> None:
    """Answer 404 where Flask itself would answer.

    Flask would serve static files, and redirect `/jobs//x` to `/jobs/x`.
    """
    if flask.request.endpoint == "static" or isinstance(flask.request.routing_exception, RequestRedirect):
        flask.abort(404)


if flask.has_app_context():  # functions-framework imports this file inside its application context
    flask.current_app.register_error_handler(HTTPException, answer_in_json)
    flask.current_app.before_request(reject_static_files_and_redirects)


@functions_framework.http
def api(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """Serve the public HTTP API."""
    from gemtune.handlers import http_api

    return http_api.respond(request, services())


@functions_framework.http
def control(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """Serve the control API, which only the workflow calls."""
    from gemtune.handlers import control_api

    return control_api.respond(request, services())


@functions_framework.http
def sweep(request: flask.Request) -> flask.typing.ResponseReturnValue:
    """Run one sweep; only Cloud Scheduler calls it."""
    services().sweep()
    return {"swept": True}


@functions_framework.cloud_event
def dispatch(event: CloudEvent) -> None:
    """Handle a Pub/Sub message of the topic job-requests: launch a job."""
    from gemtune.handlers import cloud_events

    cloud_events.dispatch(event, services())


@functions_framework.cloud_event
def notify(event: CloudEvent) -> None:
    """Handle a Pub/Sub message of the topic webhooks: send one webhook."""
    from gemtune.handlers import cloud_events

    cloud_events.notify(event, services())


@functions_framework.cloud_event
def ingest(event: CloudEvent) -> None:
    """Handle a finalized Cloud Storage object: submit it if it is a job file."""
    from gemtune.handlers import cloud_events

    cloud_events.ingest(event, services())


@functions_framework.cloud_event
def fan_out(event: CloudEvent) -> None:
    """Handle a created Firestore document: publish the new events of a job."""
    from gemtune.handlers import cloud_events

    cloud_events.fan_out(event, services())
