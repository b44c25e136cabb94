"""Owners of jobs: on gcp the identity that IAM verified, else the one user."""

from __future__ import annotations

import base64
import json
from typing import Any

import flask
import pytest

from gemtune.bootstrap import Services
from gemtune.settings import Settings
from tests.unit.test_settings import CLOUD


def token(claims: Any) -> str:
    """Return an ID token as it arrives on Cloud Run, without its signature."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims)]
    return ".".join([*parts, "SIGNATURE_REMOVED_BY_GOOGLE"])


def owner(header: str | None, environment: dict[str, str]) -> str:
    headers = {} if header is None else {"Authorization": header}
    with flask.Flask("test").test_request_context("/train", headers=headers):
        return Services(Settings.from_environment(environment)).callers.owner(flask.request)


def test_the_verified_email_owns_the_job() -> None:
    mine = {"email": "someone@example.com", "email_verified": True}
    assert owner(f"Bearer {token(mine)}", CLOUD) == "someone@example.com"
    assert owner(f"bearer {token(mine)}", CLOUD) == "someone@example.com"
    assert owner(f"Bearer {token(mine)}", {}) == "local"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        "Bearer a.b.c",
        "Bearer a.!!!.c",
        "Basic dXNlcjpwYXNz",
        f"Bearer {token({'email': 'x@example.com', 'email_verified': False})}",
        f"Bearer {token({'email': 'x@example.com'})}",
        f"Bearer {token([])}",
        f"Bearer {token({'email': 7})}",
    ],
)
def test_without_a_verified_email_the_owner_is_anonymous(header: str | None) -> None:
    assert owner(header, CLOUD) == "anonymous"
