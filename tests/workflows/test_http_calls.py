"""http.post as workflows call it."""

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
def test_the_audience_of_a_token_defaults_to_the_url(auth: Any, sent: str | None) -> None:
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, json={})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
        args = {"url": "https://control.example/claim", "auth": auth, "body": {}}
        http_post(args, client=client, id_token=lambda audience: f"for {audience}")
    assert requests[0].headers.get("Authorization") == sent
