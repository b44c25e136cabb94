"""Owner of a request, from the identity tokens that Google has verified."""

from __future__ import annotations

import base64
import json
from typing import Any

import flask
import pytest

from gemtune.gcp.iam_callers import IamCallers

GATEWAY = "gemtune-gateway@p.iam.gserviceaccount.com"
OUTSIDE = {"iss": "https://issuer.example.com", "sub": "42"}
ME = {"email": "me@example.com", "email_verified": True}


def encoded(claims: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


def owner(claims: Any, userinfo: str | None = None, gateway: str | None = GATEWAY) -> str:
    headers = {"Authorization": f"Bearer e30.{encoded(claims)}.x"}
    if userinfo is not None:
        headers["X-Apigateway-Api-Userinfo"] = userinfo
    with flask.Flask("t").test_request_context(headers=headers):
        return IamCallers(gateway).owner(flask.request)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (OUTSIDE, "https://issuer.example.com#42"),
        (OUTSIDE | ME, "me@example.com"),
        (OUTSIDE | ME | {"email_verified": False}, "https://issuer.example.com#42"),
        ({}, "anonymous"),
        ([], "anonymous"),
    ],
)
def test_behind_the_gateway_the_owner_is_the_user_it_names(claims: Any, expected: str) -> None:
    assert owner({"email": GATEWAY, "email_verified": True}, encoded(claims)) == expected


def test_only_the_gateway_may_name_another_user() -> None:
    assert owner(ME, encoded(OUTSIDE | {"email": "other@example.com", "email_verified": True})) == "me@example.com"
    assert owner({"email": GATEWAY}, encoded(OUTSIDE)) == "anonymous"
    assert owner({"email": GATEWAY, "email_verified": True}, encoded(OUTSIDE), gateway=None) == GATEWAY


@pytest.mark.parametrize("userinfo", [None, "", "!", "e30", "bm9uZQ"])
def test_without_a_readable_user_from_the_gateway_the_owner_is_anonymous(userinfo: str | None) -> None:
    assert owner({"email": GATEWAY, "email_verified": True}, userinfo) == "anonymous"
