"""What there is to say about an operation of the HTTP API, in one record."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from gemtune import errors
from gemtune.handlers.parameters import Parameter

# The status of an error, and what it means to a caller. The nearest class of an error decides.
STATUSES: Mapping[type[errors.GemtuneError], tuple[int, str]] = {
    errors.NotFromHere: (403, "called by a web page of others, or under another name than this machine's"),
    errors.NotFound: (404, "there is nothing of that name"),
    errors.UnsafeName: (404, "there is nothing of that name"),
    errors.Conflict: (409, "contradicts what is there"),
    errors.RecordUnreadable: (409, "`record_unreadable`: another version of the service wrote the job's record"),
    errors.BodyTooLarge: (413, "the body has more than 1048576 bytes"),
    errors.RequestRefused: (422, "refused, with everything that is wrong"),
    errors.BadIdempotencyKey: (422, "refused, with everything that is wrong"),
    errors.BadPageToken: (422, "refused, with everything that is wrong"),
    errors.NoSignedLinks: (501, "the service runs as nobody who can sign links"),
    errors.CannotStore: (507, "nothing can be stored: the disk is full, or may not be written to"),
}
# Any other error is a fault of the service, and its answer does not say what it was.
FAULT = (500, "a fault of the service; its log says more")
# What every operation may answer.
EVERYWHERE: tuple[type[errors.GemtuneError], ...] = (errors.NotFromHere, errors.BodyTooLarge, errors.CannotStore)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One operation. Nothing has a default, so that nothing is forgotten.

    path: as OpenAPI writes it, `/jobs/{job_id}`. route: decodes, calls one service, encodes; its keywords are the parts
    of the path, the parameters and, where there is one, the `body` as bytes. success: the status of a good answer.
    body: the model of the request's body. errors: what it may raise beyond EVERYWHERE.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    route: Callable[..., BaseModel]
    success: int
    answer: type[BaseModel]
    body: type[BaseModel] | None
    parameters: tuple[Parameter, ...]
    errors: tuple[type[errors.GemtuneError], ...]

    @property
    def path_parts(self) -> list[str]:
        """The names in the path."""
        return re.findall(r"{(\w+)}", self.path)

    @property
    def refusals(self) -> dict[int, str]:
        """Status of every error answer -> what it means."""
        meanings: dict[int, list[str]] = {}
        for status, meaning in [*(status_of(error) for error in (*self.errors, *EVERYWHERE)), FAULT]:
            meanings.setdefault(status, [])
            if meaning not in meanings[status]:
                meanings[status].append(meaning)
        return {status: "; ".join(meanings[status]) for status in sorted(meanings)}


def status_of(error: type[errors.GemtuneError]) -> tuple[int, str]:
    """The status that answers an error of this class, and its meaning."""
    return next((STATUSES[kind] for kind in error.__mro__ if kind in STATUSES), FAULT)
