"""Callers on Google Cloud, identified by their ID tokens.

Cloud Run's IAM check verifies the token before a request arrives, and then removes the token's signature. This module
therefore only reads the claims. https://cloud.google.com/run/docs/authenticating/service-to-service
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import flask

from gemtune.untrusted import Unreadable, read_json_object

ANONYMOUS = "anonymous"


class IamCallers:
    """`ports.Callers` behind Cloud Run's IAM check.

    Outside callers may come through an API Gateway.
    """

    def __init__(self, gateway: str | None = None):
        """Create the port.

        `gateway` is the email of the API Gateway's service account, None if there is no gateway.
        """
        self._gateway = gateway

    def check(self, request: flask.Request) -> None:
        """Do nothing: IAM has checked the request."""

    def owner(self, request: flask.Request) -> str:
        """Return the caller's verified email.

        A caller of the gateway without a verified email is `issuer#subject`, and a request without token `anonymous`.
        """
        # If both headers are present, Cloud Run verifies X-Serverless-Authorization and leaves Authorization
        # unverified.
        header = request.headers.get("X-Serverless-Authorization", request.headers.get("Authorization", ""))
        kind, _, token = header.partition(" ")
        caller = _email(_claims(token.partition(".")[2].partition(".")[0]) if kind.lower() == "bearer" else {})
        if caller is None or caller != self._gateway:
            return caller or ANONYMOUS
        # The gateway has verified the outside caller's token and set this header, replacing any that the caller sent.
        # https://cloud.google.com/api-gateway/docs/authenticating-users-jwt
        claims = _claims(request.headers.get("X-Apigateway-Api-Userinfo", ""))
        issuer, subject = claims.get("iss"), claims.get("sub")
        return _email(claims) or (f"{issuer}#{subject}" if issuer and subject else ANONYMOUS)


def _email(claims: Mapping[str, object]) -> str | None:
    """Return the email of a token's claims if its issuer has verified it."""
    email = claims.get("email")
    return email if isinstance(email, str) and claims.get("email_verified") is True else None


def _claims(payload: str) -> dict[str, object]:
    """Decode the base64url payload of a JWT; an invalid one has no claims."""
    try:
        return read_json_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), repeated_keys=True)
    except (ValueError, Unreadable):
        return {}
