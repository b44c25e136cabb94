"""Errors of the Hub during an upload, as errors of the job."""

from __future__ import annotations

import json

from gemtune.errors import GemtuneError, StepError
from trainer.hub.session import Busy, retry_after

EXPORT_AGAIN = "what was trained and exported is kept; then POST /jobs/{id}/exports"

# HTTP status -> (error code, problem, action). "storage" is any status of the storage to which files are uploaded.
REFUSALS: dict[int | str, tuple[str, str, str]] = {
    "storage": ("hub_storage_refused", "the Hub's storage does not accept the files", "wait a while"),
    400: ("hub_refused", "the Hub does not accept the upload", "see its message"),
    401: ("hub_token_refused", "the Hub does not accept the token", "create a token with write access"),
    402: ("hub_needs_payment", "the account's plan does not cover {repository}", "make room, or change the plan"),
    403: ("hub_forbidden", "the token may not write to {repository}", "use a token with write access to that owner"),
    404: ("hub_repository_not_found", "{repository} does not exist and cannot be created", "check owner and name"),
    409: ("hub_conflict", "others keep changing {repository}", "wait until that is over"),
    413: ("hub_too_large", "the upload is too large for the Hub", "use another quantization, or an adapter"),
}
REFUSALS |= {410: REFUSALS[404], 412: REFUSALS[409]}


class TransientError(GemtuneError):
    """Raised for errors that may pass: a lost connection, a busy server.

    seconds: how long the server asks to wait. final: the error of the job after the last retry; None if the whole step
    is retried instead.
    """

    code = "hub_away"

    def __init__(self, message: str, *, seconds: float = 0.0, final: StepError | None = None):
        super().__init__(message)
        self.seconds, self.final = seconds, final


def job_error(error: Exception, repository: str) -> Exception:
    """Return the StepError or TransientError that an upload's error means.

    An error that is not the Hub's is returned as it is. Messages name a request by method, host and path only: its
    URL may be signed, and its headers contain the token.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    error = _cause(error)
    if isinstance(error, Busy):
        return TransientError(str(error), seconds=error.seconds)
    if isinstance(error, HfHubHTTPError):
        return _refusal(error.response, error.server_message, repository)
    if isinstance(error, httpx2.TransportError):
        return TransientError(f"the connection to the Hub was lost ({type(error).__name__})")
    if isinstance(error, HFValidationError):
        return _step_error(404, repository, "it is not a valid name of a repository")
    if isinstance(error, json.JSONDecodeError):
        return TransientError("the Hub's answer is not JSON")
    if type(error) is ValueError:  # the large file storage rejected an object, or the Hub rejected the model card
        return _step_error(400, repository, str(error))
    return error


def is_transient(status: int) -> bool:
    """Return whether a request with this HTTP status may succeed later."""
    return status in (408, 425, 429) or status >= 500


def _refusal(response: object, reason: str | None, repository: str) -> Exception:
    import httpx2

    assert isinstance(response, httpx2.Response)
    status, request = response.status_code, response.request
    answer = f"{request.method} {request.url.host}{request.url.path} answers {status}"
    if is_transient(status):
        return TransientError(answer, seconds=retry_after(response))
    # Files are uploaded to a storage by signed URLs, without the token. The storage rejects expired URLs and slow
    # connections with various statuses; a retry gets new URLs.
    by_signed_url = "authorization" not in request.headers and status != 413
    refused = _step_error("storage" if by_signed_url else status, repository, reason or answer)
    return TransientError(answer, final=refused) if by_signed_url or status in (409, 412) else refused


def _step_error(status: int | str, repository: str, reason: str) -> StepError:
    code, message, hint = REFUSALS.get(status, REFUSALS[400])
    words = " ".join(reason.split())[:300]
    return StepError(code, f"{message.format(repository=repository)}: {words}", hint=f"{hint}; {EXPORT_AGAIN}")


def _cause(error: Exception) -> Exception:
    """Return the error that huggingface_hub wrapped when it uploaded files."""
    while type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
