"""Writes to Firestore that several writers may make at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.api_core.exceptions import Aborted, AlreadyExists, FailedPrecondition, NotFound
from google.api_core.retry import Retry, if_exception_type

# Time limits in seconds: for one call, and for repeating a write that conflicts with other writers.
CALL_SECONDS, CONFLICT_SECONDS = 20.0, 60.0

Result = TypeVar("Result")


def retry_conflicts(attempt: Callable[[], Result]) -> Result:
    """Call `attempt` until no other writer interferes; return its result.

    An attempt that raises one of these errors has written nothing, because a precondition did not hold.
    """
    conflicts = if_exception_type(Aborted, AlreadyExists, FailedPrecondition, NotFound)
    return Retry(conflicts, initial=0.02, multiplier=1.5, maximum=1.0, timeout=CONFLICT_SECONDS)(attempt)()
