"""Error answers, which are always JSON and can be built for any text.

They are built without a pydantic model, which could refuse untrusted text. `answers.ErrorAnswer` describes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import flask
from werkzeug.exceptions import HTTPException

from gemtune import VERSION, VERSION_HEADER
from gemtune.errors import BodyTooLarge, Problem
from gemtune.redaction import redact

JSON = "application/json"
SEE = "see GET /openapi.json"
OURS = {"Request Entity Too Large": BodyTooLarge.code}


def body(code: str, message: str, hint: str | None, problems: Sequence[Problem] | None = None) -> bytes:
    """Return the body of an error answer.

    problems: only for a request that is refused.
    """
    answer: dict[str, object] = {
        "error": {"code": _safe_text(code), "message": _safe_text(message), "hint": _safe_text(hint)}
    }
    if problems is not None:
        answer["problems"] = [
            {
                "loc": [part if isinstance(part, int) else _safe_text(part) for part in problem.loc],
                "msg": _safe_text(problem.msg),
                "code": _safe_text(problem.code),
                "hint": _safe_text(problem.hint),
            }
            for problem in problems
        ]
    return json.dumps(answer).encode()


def response(
    status: int, code: str, message: str, hint: str | None, problems: Sequence[Problem] | None = None
) -> flask.Response:
    """Return an error answer. problems: only for a request that is refused."""
    return with_version(flask.Response(body(code, message, hint, problems), status, mimetype=JSON))


def with_version(answer: flask.Response) -> flask.Response:
    """Return an answer with the header by which clients know the service."""
    answer.headers[VERSION_HEADER] = VERSION
    return answer


def routing_error(request: flask.Request, error: HTTPException) -> flask.Response:
    """Return the answer to a request that matches no function or no operation."""
    message = f"{request.method} {request.path[:200]}: {error.name}"
    answer = response(error.code or 500, code_for_reason(error.name), message, SEE)
    answer.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
    return answer


def code_for_reason(reason: str) -> str:
    """Return the error code for an HTTP reason: `not_found` for Not Found.

    Where gemtune has its own error for the reason, it is the code of that error.
    """
    return OURS.get(reason) or reason.lower().replace(" ", "_")


def hint_for_reason(reason: str) -> str:
    """Return what to do about an HTTP reason of a server in front of the API."""
    if code_for_reason(reason) == BodyTooLarge.code:  # larger than any body, so that it can only be a file
        return BodyTooLarge(0, is_file=True).hint or SEE
    return SEE


def _safe_text(text: str | None) -> str | None:
    """Return a text without tokens and lone surrogates.

    JSON readers may refuse lone surrogates; they are replaced by `?`.
    """
    return None if text is None else redact(text).encode(errors="replace").decode()
