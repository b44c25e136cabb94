"""Record of an operation of the HTTP API.

The router and the OpenAPI document are built from these records.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from gemtune import errors
from gemtune.handlers.description.parameters import Parameter

# HTTP status of each error, and its meaning to a caller. The most specific class of an error counts.
STATUSES: Mapping[type[errors.GemtuneError], tuple[int, str]] = {
    errors.NotFromHere: (
        403,
        "the call comes from a web page of another site, or uses another host name than this machine's",
    ),
    errors.NotFound: (404, "there is nothing of that name"),
    errors.UnsafeName: (404, "there is nothing of that name"),
    errors.Conflict: (409, "the request conflicts with the current state"),
    errors.RecordUnreadable: (409, "`record_unreadable`: another version of the service wrote the job's record"),
    errors.BodyTooLarge: (413, "the body is too large: more than 1048576 bytes, or than a part of an upload has"),
    errors.RequestRefused: (422, "the request is refused, with everything that is wrong"),
    errors.BadIdempotencyKey: (422, "the request is refused, with everything that is wrong"),
    errors.BadPageToken: (422, "the request is refused, with everything that is wrong"),
    errors.NoLogs: (501, "the account of the service may not read logs"),
    errors.LogsBusy: (503, "the platform does not return logs now"),
    errors.NoSignedLinks: (
        501,
        "the service cannot make links: its account may not sign them, or it takes parts itself",
    ),
    errors.CannotStore: (507, "nothing can be stored: the disk is full or cannot be written to"),
}
# Any other error is internal. The response to it gives no details.
FAULT = (500, "an internal error; the service's log has the details")
# Errors with which every operation may answer.
EVERYWHERE: tuple[type[errors.GemtuneError], ...] = (
    errors.NotFromHere,
    errors.BodyTooLarge,
    errors.RequestRefused,
    errors.CannotStore,
)


@dataclass(frozen=True, slots=True)
class Binary:
    """Body of bytes. max_bytes: the most that are accepted."""

    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One operation of the API.

    It has no defaults, so that nothing is forgotten.
    path: in OpenAPI's form, such as `/jobs/{job_id}`.
    route: function that decodes, calls one service and encodes. Its keyword arguments are the parts of the path, the
    parameters and, if there is a body, the `body` as bytes. A route with the argument `owner` gets the caller.
    success: HTTP status of a successful answer.
    body: model of the request's body, Binary, or None.
    errors: errors that it may raise in addition to EVERYWHERE.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    summary: str
    route: Callable[..., BaseModel]
    success: int
    answer: type[BaseModel]
    body: type[BaseModel] | Binary | None
    parameters: tuple[Parameter, ...]
    errors: tuple[type[errors.GemtuneError], ...]

    @property
    def path_parts(self) -> list[str]:
        """Return the names of the path's variable parts."""
        return re.findall(r"{(\w+)}", self.path)

    @property
    def refusals(self) -> dict[int, str]:
        """Return the HTTP status of every error answer -> its meaning."""
        meanings: dict[int, list[str]] = {}
        for status, meaning in [*(status_of(error) for error in (*self.errors, *EVERYWHERE)), FAULT]:
            meanings.setdefault(status, [])
            if meaning not in meanings[status]:
                meanings[status].append(meaning)
        return {status: "; ".join(meanings[status]) for status in sorted(meanings)}


def status_of(error: type[errors.GemtuneError]) -> tuple[int, str]:
    """Return the HTTP status for an error of this class, and its meaning."""
    return next((STATUSES[kind] for kind in error.__mro__ if kind in STATUSES), FAULT)
