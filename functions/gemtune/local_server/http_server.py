"""A threaded HTTP server for one WSGI app, whose own refusals are JSON as the app's are.

waitress parses requests before the app sees them, and answers what is no HTTP, too long or too large itself.
"""

from __future__ import annotations

from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from gemtune.handlers import error_answers

HOST = "127.0.0.1"
THREADS = 16


def listen(app: Any, *, port: int, max_body_bytes: int) -> Any:
    """Bind a port of this machine, 0 for any that is free. Serving begins with `run`. Raises OSError."""
    server = create_server(app, host=HOST, port=port, threads=THREADS, max_request_body_size=max_body_bytes)
    server.channel_class = _Channel
    return server


class _Refusal(ErrorTask):  # type: ignore[misc]
    """The answer to a request that does not reach the app."""

    def execute(self) -> None:
        error = self.request.error
        message = f"{error.reason}: {error.body}"[:300]
        body = error_answers.body(error_answers.code_for_reason(error.reason), message, error_answers.SEE)
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", error_answers.JSON))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose refusals are JSON."""

    error_task_class = _Refusal
