"""Webhooks of the workstation service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests import rows
from tests.e2e.api import wait_for
from tests.e2e.service import Service
from tests.e2e.test_ways_in import MOVES
from tests.webhook_receiver import WebhookReceiver


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver(500)
    yield receiver
    receiver.stop()


def test_a_loopback_webhook_gets_every_event_signed_once_the_setting_allows_it(
    tmp_path: Path, request_of: Any, receiver: WebhookReceiver
) -> None:
    request = request_of() | {"notify": {"webhook_url": receiver.url}}
    with Service(tmp_path) as service:
        service.put_dataset("chats", rows.train_rows(32))
        refused = service.client.post("/train", json=request)
        assert (refused.status_code, refused.json()["problems"][0]["code"]) == (422, "bad_webhook_url")
        assert "GEMTUNE_WEBHOOKS_TO_LOOPBACK" in refused.text
        service.stop()
        service.environment["GEMTUNE_WEBHOOKS_TO_LOOPBACK"] = "yes"
        service.start()
        job_id = service.submit(request)
        service.completed(job_id)
        wait_for(lambda: "job_completed" in receiver.types(), seconds=240, what="the webhook")
        assert [event_type for event_type in receiver.types() if event_type in MOVES] == MOVES
        key = service.cli("webhook-key").stdout.strip()
        for headers, body in receiver.requests:
            assert Webhook(key).verify(body, headers)
