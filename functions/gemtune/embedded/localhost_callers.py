"""Callers of a workstation: its one user. Keeps web pages out of a server that listens on this machine only."""

from __future__ import annotations

from urllib.parse import urlsplit

import flask

from gemtune.errors import NotFromHere

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


class LocalhostCallers:
    def __init__(self, user: str):
        self._user = user

    def check(self, request: flask.Request) -> None:
        """Refuse other pages that the user has open. One can send requests to 127.0.0.1, and its address then stands in
        Origin: another port of this machine is another page too. One can have its own name resolve to 127.0.0.1, and
        its name then stands in Host."""
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if not _is_local(f"//{host}"):
            raise NotFromHere()
        if origin is not None and origin.lower() != f"{request.scheme}://{host}".lower():
            raise NotFromHere()

    def owner(self, request: flask.Request) -> str:
        return self._user


def _is_local(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOCAL
    except ValueError:
        return False
