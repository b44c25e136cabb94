"""http.post, as a workflow calls it."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from gemtune.local_server.workflow_engine.http_calls import http_post


@pytest.mark.parametrize(
    ("auth", "sent"),
    [
        (None, None),
        ({"type": "OIDC"}, "Bearer for https://control.example/claim"),
        ({"type": "OIDC", "audience": "https://control.example"}, "Bearer for https://control.example"),
    ],
)
def test_a_token_is_for_its_audience_or_else_for_the_url(auth: Any, sent: str | None) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(200, json={})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
        args = {"url": "https://control.example/claim", "auth": auth, "body": {}}
        http_post(args, client=client, id_token=lambda audience: f"for {audience}")
    assert asked[0].headers.get("Authorization") == sent
