"""Reading from the Hub: the token, and the reasons for which it refuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from gemtune.errors import SecretNotFound, StepError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
# Seconds before each further try to reach the Hub.
WAITS = (2, 10, 30)


class HubRefuses(Exception):
    """Raised when the Hub will not let a repository be read.

    why: its terms have to be accepted, it or the revision does not exist for this token, or the token is refused.
    """

    def __init__(self, why: Literal["gated", "missing", "revision_missing", "refused"]):
        super().__init__(why)
        self.why = why


def read_token(token: Callable[[], str | None]) -> str | None:
    """Return the job's Hub token, or the service's own; None without either.

    Raises StepError if the job's has been deleted.
    """
    try:
        return token()
    except SecretNotFound as error:
        raise StepError(error.code, "the hf_token no longer exists", hint="send hf_token again") from error


def reach_hub(
    ask: Callable[[], Answer],
    name: str,
    *,
    check_stop: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Return the Hub's first answer about a repository.

    Without a network, a name server or a working proxy, further attempts of the step would end the same way, so the job
    fails and says so. Later requests of the step are not asked here: their network errors propagate, and a retry goes
    on with what was downloaded. check_stop: raises to stop waiting.
    Raises StepError `hub_unreachable`, and what `ask` raises.
    """
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    for seconds in (*WAITS, None):
        try:
            return ask()
        except OfflineModeIsEnabled as error:
            raise unreachable(name, "HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE, or ") from error
        except httpx2.TransportError as error:
            if seconds is None:
                raise unreachable(name, f"{type(error).__name__}: {error}") from error
            log.warning("the Hub cannot be reached, trying again in %d s: %s", seconds, error)
        for _ in range(seconds):
            check_stop()
            sleep(1)
    raise AssertionError("the last try returned or raised")


def unreachable(name: str, reason: str, *, hint: str = "") -> StepError:
    """Return the error for a repository that cannot be looked up."""
    first_line = (reason.splitlines() or [""])[0][:200]
    hint = hint or "check network, name server and proxy of the machine that prepares, or "
    return StepError(
        "hub_unreachable",
        f"the Hub cannot be reached for {name}: {first_line}",
        hint=f"{hint}use what is at hand (for base models see GET /models)",
    )


@contextmanager
def reading_hub() -> Iterator[None]:
    """Raise HubRefuses for the Hub's refusals.

    Errors that may go away by themselves (network, 5xx) pass.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise HubRefuses("gated") from error
    except RevisionNotFoundError as error:
        raise HubRefuses("revision_missing") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise HubRefuses("missing") from error
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        # Downloads wrap some refusals in LocalEntryNotFoundError.
        refusal = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        if not isinstance(refusal, HfHubHTTPError) or refusal.response.status_code not in (401, 403):
            raise
        raise HubRefuses("refused") from error
