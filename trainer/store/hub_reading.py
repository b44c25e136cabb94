"""Reading from the Hub: the token, and the reasons for which it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from gemtune.errors import SecretNotFound, StepError


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
        hint = "submit the job again with hf_token"
        raise StepError(error.code, "the job's hf_token no longer exists", hint=hint) from error


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
