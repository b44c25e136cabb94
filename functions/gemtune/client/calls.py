"""Requests of a client, apart from how they are sent.

An operation of several requests is a generator: it yields calls and pauses, and gets the answers. So the synchronous
and the asynchronous client share it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One request of the API.

    answer: model of a successful answer; None for its JSON as it is. json, content: its body.
    """

    method: str
    path: str
    answer: type[Answer] | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait between two requests."""

    seconds: float


# An operation: yields calls and pauses, is sent their answers or thrown their errors, and returns its result.
Operation = Generator[Call[Any] | Pause, Any, Answer]
