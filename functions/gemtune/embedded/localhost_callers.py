"""Callers of a workstation's server: its one user, but no web pages.

The server listens on this machine only, but a browser on this machine runs pages of others.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import flask

from gemtune.errors import NotFromHere

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


class LocalhostCallers:
    """`ports.Callers` for a server on this machine, with one owner."""

    def __init__(self, user: str):
        self._user = user

    def check(self, request: flask.Request) -> None:
        """Reject requests of web pages. Raises NotFromHere.

        A page can send requests to 127.0.0.1, and the browser then puts the page's origin into the header Origin; a
        server on another port of this machine is another origin, too. A page can also make its own name resolve to
        127.0.0.1 (DNS rebinding), and its name is then in the header Host.
        """
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not _is_local(f"//{host}"):
            raise NotFromHere()
        if origin is not None and origin.lower() != f"{request.scheme}://{host}".lower():
            raise NotFromHere()

    def owner(self, request: flask.Request) -> str:
        """Return the one owner of all jobs."""
        return self._user


def _is_local(url: str) -> bool:
    """Return whether a URL's host is this machine."""
    try:
        return urlsplit(url).hostname in LOCAL
    except ValueError:
        return False
