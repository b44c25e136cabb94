"""Requests of a client, apart from how they are sent.

An operation of several requests is a generator: it yields calls and pauses, and gets the answers. So the synchronous
and the asynchronous client share it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One request of the API.

    answer: model of a successful answer; None for its JSON as it is. json, content: its body. timeout: seconds to wait
    for the answer; None for the usual ones.
    """

    method: str
    path: str
    answer: type[Answer] | None = None
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    content: bytes | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class LinkedPut:
    """Upload by a link, to another host than the service's.

    It takes no token along. The link itself gives access, so that it is neither shown nor logged. Its answer is None.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str]
    content: bytes = field(repr=False)

    @property
    def host(self) -> str:
        """Return the host of the link, with its port if it has one."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait between two requests."""

    seconds: float


Step = Call[Any] | LinkedPut | Pause
# An operation: yields calls and pauses, is sent their answers or thrown their errors, and returns its result.
Operation = Generator[Step, Any, Answer]
