"""Callers that IAM let through. On Cloud Run it has verified the identity token before it comes here, and has taken
its signature off, so it is only read. https://cloud.google.com/run/docs/authenticating/service-to-service
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import flask

from gemtune.untrusted import Unreadable, read_json_object

ANONYMOUS = "anonymous"


class IamCallers:
    def __init__(self, gateway: str | None = None):
        """`gateway`: the email of the API Gateway that calls for outside callers, where there is one."""
        self._gateway = gateway

    def check(self, request: flask.Request) -> None:
        """Nothing is left to check."""

    def owner(self, request: flask.Request) -> str:
        """The verified email, of an outside caller who has none the issuer and its name for them; `anonymous` where no
        token is asked for."""
        # When both are there, Cloud Run verifies the second and passes the first on as it came.
        sent = request.headers.get("X-Serverless-Authorization", request.headers.get("Authorization", ""))
        kind, _, token = sent.partition(" ")
        caller = _email(_claims(token.partition(".")[2].partition(".")[0]) if kind.lower() == "bearer" else {})
        if caller is None or caller != self._gateway:
            return caller or ANONYMOUS
        # It has verified their token, and replaces what a caller put into this header.
        # https://cloud.google.com/api-gateway/docs/authenticating-users-jwt
        claims = _claims(request.headers.get("X-Apigateway-Api-Userinfo", ""))
        issuer, name = claims.get("iss"), claims.get("sub")
        return _email(claims) or (f"{issuer}#{name}" if issuer and name else ANONYMOUS)


def _email(claims: Mapping[str, object]) -> str | None:
    email = claims.get("email")
    return email if isinstance(email, str) and claims.get("email_verified") is True else None


def _claims(payload: str) -> dict[str, object]:
    """The claims in a token's middle part."""
    try:
        return read_json_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), repeated_keys=True)
    except (ValueError, Unreadable):
        return {}
