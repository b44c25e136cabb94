"""Threaded HTTP server for one WSGI app, on waitress.

waitress itself answers requests that are malformed or too large, before the app sees them. Here it answers with JSON
errors, as the app does.
"""

from __future__ import annotations

from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from gemtune import VERSION, VERSION_HEADER
from gemtune.handlers import error_answers

HOST = "127.0.0.1"
THREADS = 16


def listen(app: Any, *, port: int, max_body_bytes: int) -> Any:
    """Return a waitress server for `app`, bound to a local port.

    Port 0 selects a free port. Serving begins with the server's `run()`. Raises OSError if the port is not available.
    """
    server = create_server(app, host=HOST, port=port, threads=THREADS, max_request_body_size=max_body_bytes)
    server.channel_class = _Channel
    return server


class _JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """Task of waitress that answers a request which does not reach the app."""

    def execute(self) -> None:
        """Write the error as JSON."""
        error = self.request.error
        message = f"{error.reason}: {error.body}"[:300]
        code, hint = error_answers.code_for_reason(error.reason), error_answers.hint_for_reason(error.reason)
        body = error_answers.body(code, message, hint)
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", error_answers.JSON), (VERSION_HEADER, VERSION)]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """Connection of waitress that answers errors with JSON."""

    error_task_class = _JsonErrorTask
