"""Positions in long lists, from which the next sweep goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from gemtune.ports import SharedDocuments

log = logging.getLogger(__name__)
T = TypeVar("T")

PREFIX = "sweeps/"


class Position(BaseModel):
    """Position of a job in a list that is sorted by a time and the job's id."""

    model_config = ConfigDict(frozen=True, extra="allow")

    at: AwareDatetime
    job_id: str = Field(pattern="^[^/]+$")


@dataclass(frozen=True, slots=True)
class Positions:
    """Service that keeps a position for each list."""

    documents: SharedDocuments

    def resume(
        self, name: str, read: Callable[[Position | None], Iterator[T]], position_of: Callable[[T], Position]
    ) -> Generator[T, None, None]:
        """Yield a list from its stored position on.

        A caller that closes the iterator early stores the position of what it got last. At the end of the list the
        position is removed, so that the next call begins anew.
        name: of the list. read: returns the list behind a position.
        """
        stored = self.documents.read(PREFIX + name)
        start = position = None if stored is None else _read(stored, name)
        try:
            for each in read(start):
                position = position_of(each)
                yield each
            position = None
        finally:
            body = None if position is None else position.model_dump_json()
            if body != stored:
                self.documents.update(PREFIX + name, lambda _: body)


def _read(body: str, name: str) -> Position | None:
    """Return a stored position; None if it is damaged."""
    try:
        return Position.model_validate_json(body)
    except ValidationError:
        log.error("%s%s is damaged: the list is begun anew", PREFIX, name)
        return None
