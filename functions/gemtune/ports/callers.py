"""Identification of the callers of the HTTP API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import flask


class Callers(Protocol):
    """Identification of the callers of the HTTP API."""

    def check(self, request: flask.Request) -> None:
        """Reject a request that must not reach the API.

        Called before anything else of the request is read. Raises NotFromHere.
        """
        ...

    def owner(self, request: flask.Request) -> str:
        """Return the owner of the jobs that this request creates."""
        ...
