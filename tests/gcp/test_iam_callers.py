"""Who owns what a request asks for, by the tokens that Google verified before."""

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


def part(claims: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


def owner(claims: Any, userinfo: str | None = None, gateway: str | None = GATEWAY) -> str:
    headers = {"Authorization": f"Bearer e30.{part(claims)}.x"}
    if userinfo is not None:
        headers["X-Apigateway-Api-Userinfo"] = userinfo
    with flask.Flask("t").test_request_context(headers=headers):
        return IamCallers(gateway).owner(flask.request)


@pytest.mark.parametrize(
    ("outside", "who"),
    [
        (OUTSIDE, "https://issuer.example.com#42"),
        (OUTSIDE | ME, "me@example.com"),
        (OUTSIDE | ME | {"email_verified": False}, "https://issuer.example.com#42"),
        ({}, "anonymous"),
        ([], "anonymous"),
    ],
)
def test_behind_the_gateway_it_is_who_the_gateway_says(outside: Any, who: str) -> None:
    assert owner({"email": GATEWAY, "email_verified": True}, part(outside)) == who


def test_nobody_else_may_say_so() -> None:
    assert owner(ME, part(OUTSIDE | {"email": "other@example.com", "email_verified": True})) == "me@example.com"
    assert owner({"email": GATEWAY}, part(OUTSIDE)) == "anonymous"
    assert owner({"email": GATEWAY, "email_verified": True}, part(OUTSIDE), gateway=None) == GATEWAY


@pytest.mark.parametrize("userinfo", [None, "", "!", "e30", "bm9uZQ"])
def test_what_the_gateway_did_not_say_is_anonymous(userinfo: str | None) -> None:
    assert owner({"email": GATEWAY, "email_verified": True}, userinfo) == "anonymous"
