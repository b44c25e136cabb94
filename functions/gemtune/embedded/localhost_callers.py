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
        """A page that the user has open can send requests to 127.0.0.1, or have its own name resolve to it. Its name
        then stands in Host, or its address in Origin."""
        for url in (f"//{request.headers.get('Host', '')}", request.headers.get("Origin")):
            if url is not None and not _is_local(url):
                raise NotFromHere()

    def owner(self, request: flask.Request) -> str:
        return self._user


def _is_local(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOCAL
    except ValueError:
        return False
