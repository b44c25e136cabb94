"""Error answers: always JSON, and made so that making one cannot fail, whatever text it has to hold.

No model and no encoder is asked here: each could refuse what came from outside. `answers.ErrorAnswer` describes what
stands here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import flask
from werkzeug.exceptions import HTTPException

from gemtune.errors import BodyTooLarge, Problem
from gemtune.redaction import redact

JSON = "application/json"
SEE = "see GET /openapi.json"
OURS = {"Request Entity Too Large": BodyTooLarge.code}


def body(code: str, message: str, hint: str | None, problems: Sequence[Problem] | None = None) -> bytes:
    """The body of an error answer. `problems` stands only in a refusal of a request."""
    answer: dict[str, object] = {"error": {"code": _whole(code), "message": _whole(message), "hint": _whole(hint)}}
    if problems is not None:
        answer["problems"] = [
            {
                "loc": [part if isinstance(part, int) else _whole(part) for part in problem.loc],
                "msg": _whole(problem.msg),
                "code": _whole(problem.code),
                "hint": _whole(problem.hint),
            }
            for problem in problems
        ]
    return json.dumps(answer).encode()


def response(
    status: int, code: str, message: str, hint: str | None, problems: Sequence[Problem] | None = None
) -> flask.Response:
    """An error answer."""
    return flask.Response(body(code, message, hint, problems), status, mimetype=JSON)


def routing_error(request: flask.Request, error: HTTPException) -> flask.Response:
    """The answer to a request that reaches no function or no operation."""
    message = f"{request.method} {request.path[:200]}: {error.name}"
    answer = response(error.code or 500, code_for_reason(error.name), message, SEE)
    answer.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
    return answer


def code_for_reason(reason: str) -> str:
    """The code of an error that HTTP has a name for: `not_found` for Not Found. An error of ours keeps its own code."""
    return OURS.get(reason) or reason.lower().replace(" ", "_")


def _whole(text: str | None) -> str | None:
    """The text without tokens, and with a `?` for half a character, which no JSON reader has to accept."""
    return None if text is None else redact(text).encode(errors="replace").decode()
