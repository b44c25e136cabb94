"""Callers that IAM let through. On Cloud Run it has verified the identity token before it comes here, and has taken
its signature off, so it is only read. https://cloud.google.com/run/docs/authenticating/service-to-service
"""

from __future__ import annotations

import base64
import json

import flask

ANONYMOUS = "anonymous"


class IamCallers:
    def check(self, request: flask.Request) -> None:
        """Nothing is left to check."""

    def owner(self, request: flask.Request) -> str:
        """The verified email; `anonymous` where no token is asked for."""
        # When both are there, Cloud Run verifies the second and passes the first on as it came.
        sent = request.headers.get("X-Serverless-Authorization", request.headers.get("Authorization", ""))
        kind, _, token = sent.partition(" ")
        claims = _claims(token) if kind.lower() == "bearer" else {}
        email = claims.get("email")
        return email if isinstance(email, str) and claims.get("email_verified") is True else ANONYMOUS


def _claims(token: str) -> dict[str, object]:
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, IndexError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
