"""What the Hub's refusals of an upload mean for the user, and which of them may pass by themselves."""

from __future__ import annotations

import json

from gemtune.errors import GemtuneError, StepError
from trainer.hub.session import Busy, retry_after

AGAIN = "what was trained and exported is kept; then POST /jobs/{id}/exports"

# Status -> code, what is wrong, what to do. "storage": any, of where the Hub has files sent to.
REFUSALS: dict[int | str, tuple[str, str, str]] = {
    "storage": ("hub_storage_refused", "the Hub's storage does not take the files", "wait a while"),
    400: ("hub_refused", "the Hub does not take the upload", "see what it says"),
    401: ("hub_token_refused", "the Hub does not know the token", "make a token with write access"),
    402: ("hub_needs_payment", "the account's plan does not cover {repository}", "make room, or change the plan"),
    403: ("hub_forbidden", "the token may not write to {repository}", "use one with write access, and an owner it has"),
    404: ("hub_repository_not_found", "there is no {repository}, nor may one be made", "check owner and name"),
    409: ("hub_conflict", "somebody else changes {repository} again and again", "wait until that is over"),
    413: ("hub_too_large", "the Hub finds the upload too large", "use another quantization, or an adapter"),
}
REFUSALS |= {410: REFUSALS[404], 412: REFUSALS[409]}


class TransientError(GemtuneError):
    """Something that time may mend: no connection, a server that is busy or broken, a commit that came in between.

    seconds: how long the server asks to wait. final: what it is for the user when time does not mend it; None for
    what the step is tried again for.
    """

    code = "hub_away"

    def __init__(self, message: str, *, seconds: float = 0.0, final: StepError | None = None):
        super().__init__(message)
        self.seconds, self.final = seconds, final


def translated(error: Exception, repository: str) -> Exception:
    """What to raise instead: StepError, TransientError, or the error itself when it is none of the Hub's.

    Nothing of a request is repeated but its method, host and path: a link may be signed, and a header has the token.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    error = _cause(error)
    if isinstance(error, Busy):
        return TransientError(str(error), seconds=error.seconds)
    if isinstance(error, HfHubHTTPError):
        return _refusal(error.response, error.server_message, repository)
    if isinstance(error, httpx2.TransportError):
        return TransientError(f"the connection to the Hub broke ({type(error).__name__})")
    if isinstance(error, HFValidationError):
        return _step_error(404, repository, "it is no name for a repository")
    if isinstance(error, json.JSONDecodeError):
        return TransientError("what answered for the Hub sent no JSON")
    if type(error) is ValueError:  # an object of the large file storage was refused, or the model card was
        return _step_error(400, repository, str(error))
    return error


def is_transient(status: int) -> bool:
    """Whether a server that answers so may answer otherwise in a while."""
    return status in (408, 425, 429) or status >= 500


def _refusal(response: object, said: str | None, repository: str) -> Exception:
    import httpx2

    assert isinstance(response, httpx2.Response)
    status, request = response.status_code, response.request
    where = f"{request.method} {request.url.host}{request.url.path} answers {status}"
    if is_transient(status):
        return TransientError(where, seconds=retry_after(response))
    # Files go to a storage by signed links, without the token. It refuses links that have run out, and connections that
    # were too slow, with many a status: a new link may do.
    by_link = "authorization" not in request.headers and status != 413
    refused = _step_error("storage" if by_link else status, repository, said or where)
    return TransientError(where, final=refused) if by_link or status in (409, 412) else refused


def _step_error(status: int | str, repository: str, said: str) -> StepError:
    code, message, hint = REFUSALS.get(status, REFUSALS[400])
    words = " ".join(said.split())[:300]
    return StepError(code, f"{message.format(repository=repository)}: {words}", hint=f"{hint}; {AGAIN}")


def _cause(error: Exception) -> Exception:
    """The library wraps what broke the upload of one file among many."""
    while type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error
