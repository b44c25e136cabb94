"""Requests of a client and their address, apart from how they are sent.

An operation of several requests is a generator: it yields calls and pauses, and gets the answers. So the synchronous
and the asynchronous client share it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from gemtune.client.errors import BadUse

if TYPE_CHECKING:
    import ssl

Answer = TypeVar("Answer")
Model = TypeVar("Model", bound=BaseModel)
# Hosts that are this machine. Proxies do not apply to it.
THIS_MACHINE = ("://127.0.0.1", "://localhost", "://[::1]")
# Characters of a token in a header.
TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Address:
    """A service, and the token for it, which is sent over https only.

    Raises BadUse for a token that cannot be sent.
    """

    url: str
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.token is not None:
            check_token(self.token)

    @property
    def is_local(self) -> bool:
        """Return whether the service is on this machine."""
        return any(host in self.url for host in THIS_MACHINE)

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """Return what verifies the service's certificate, as httpx takes it.

        Loading the known authorities takes about 60 ms. Over HTTP on this machine there is no certificate, and the
        context for it trusts none.
        """
        import ssl

        is_plain = self.is_local and self.url.startswith("http://")
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True


def check_token(token: str) -> None:
    """Raise BadUse if a text cannot be a token.

    The message does not show it.
    """
    if not TOKEN.fullmatch(token):
        raise BadUse("the token has spaces, line breaks or characters beyond ASCII: copy it again")


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
