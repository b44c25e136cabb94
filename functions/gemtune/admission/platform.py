"""Errors with which the platform says that it has no machine now. Pure.

Cloud Workflows raises them to the workflow: a refused call of the API has the status code of HTTP, a failed operation
the code of google.rpc.Code, and a call that lasted too long the tag TimeoutError.
https://cloud.google.com/workflows/docs/reference/syntax/error-types
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gemtune.jobs.parts.holds import WaitingReason

# google.rpc.Code and the status of HTTP with the same meaning.
RESOURCE_EXHAUSTED, UNAVAILABLE = {8, 429}, {14, 503}

# A failed operation often has a general code, and only its message says what is missing.
_WORDS: Sequence[tuple[WaitingReason, re.Pattern[str]]] = (
    ("maintenance", re.compile(r"maintenance|preempt", re.IGNORECASE)),
    ("quota", re.compile(r"quota|resource[_ ]exhausted|too many requests|rate limit", re.IGNORECASE)),
    (
        "capacity",
        re.compile(
            r"(no|insufficient|out of|lack of|not enough|unavailable)\b.{0,40}\bcapacity"
            r"|capacity\b.{0,40}\b(unavailable|exhausted|exceeded|available)"
            r"|resources?\b.{0,30}\b(unavailable|not available|exhausted)|stockout",
            re.IGNORECASE,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class PlatformError:
    """Error of an execution, as the workflow caught it.

    code: of google.rpc.Code or of HTTP; None if the error has none.
    """

    message: str
    code: int | None = None
    tags: tuple[str, ...] = ()


def waiting_reason(error: PlatformError | None, *, has_begun: bool) -> WaitingReason | None:
    """Return why the platform has no machine; None for any other error.

    has_begun: whether the step began. Then only the loss of its machine is the platform's doing.
    """
    if error is None:
        return None
    named = next((reason for reason, words in _WORDS if words.search(error.message)), None)
    if has_begun:
        return "maintenance" if named == "maintenance" else None
    if named is not None:
        return named
    if error.code in RESOURCE_EXHAUSTED:
        return "quota"
    if error.code in UNAVAILABLE:
        return "capacity"
    return "pending" if "TimeoutError" in error.tags else None
