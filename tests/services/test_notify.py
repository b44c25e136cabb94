"""Webhooks: one signed message per event, repeated until it is accepted."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from gemtune.errors import AddressNotAllowed, RequestRefused, WebhookRefused
from gemtune.ports import Topic
from gemtune.services.notify import Notify
from gemtune.webhooks import signing
from tests.fakes import World

URL = "https://example.com/hook"


class Receiver:
    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.status = 200

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        self.requests.append((url, body, headers))
        return self.status


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def notify(world: World, receiver: Receiver) -> Notify:
    world.services.bus.subscribe("webhooks", Topic.WEBHOOKS)
    return Notify(world.services.secrets, world.clock, receiver, to_loopback=False)


def deliver_all(world: World, notify: Notify) -> None:
    for message in world.messages("webhooks"):
        notify(json.dumps(message).encode())


def test_each_event_of_a_job_is_sent_signed(
    world: World, notify: Notify, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = world.submit(notify={"webhook_url": URL})
    world.services.fan_out(job_id)
    world.services.cancel(job_id)
    world.services.fan_out(job_id)
    deliver_all(world, notify)
    assert sorted(json.loads(body)["seq"] for _, body, _ in receiver.requests) == [1, 2]
    monkeypatch.setattr("standardwebhooks.webhooks.datetime", _Frozen(world))
    for url, body, headers in receiver.requests:
        sent: Any = Webhook(signing.service_key(world.services.secrets)).verify(body, dict(headers))
        assert (url, sent["job_id"]) == (URL, job_id)
        assert headers["webhook-id"] == f"{job_id}_{sent['seq']}"


def test_a_refused_webhook_is_repeated_with_the_same_id(world: World, notify: Notify, receiver: Receiver) -> None:
    world.services.fan_out(world.submit(notify={"webhook_url": URL}))
    (message,) = world.messages("webhooks")
    for status in (500, 404, 300, 302, 301, 410, 199):
        receiver.status = status
        with pytest.raises(WebhookRefused, match=str(status)):
            notify(json.dumps(message).encode())
    assert len({headers["webhook-id"] for _, _, headers in receiver.requests}) == 1


def test_a_job_without_a_webhook_enqueues_none(world: World, notify: Notify) -> None:
    world.services.fan_out(world.submit())
    assert world.messages("webhooks") == []


def test_a_forged_message_cannot_reach_a_private_address(notify: Notify, receiver: Receiver) -> None:
    event = {"job_id": "x", "seq": 1, "type": "job_queued", "status": "queued", "at": "2026-11-24T12:00:00Z"}
    with pytest.raises(AddressNotAllowed):
        notify(json.dumps({"url": "http://169.254.169.254/", "event": event}).encode())
    assert receiver.requests == []


def test_a_url_with_a_password_is_refused_at_once(world: World) -> None:
    with pytest.raises(RequestRefused) as caught:
        world.submit(notify={"webhook_url": "https://user:fakepassword@10.0.0.1/"})
    (problem,) = caught.value.problems
    assert (problem.loc, problem.code) == (("notify", "webhook_url"), "secret_in_the_open")
    assert "fakepassword" not in str(caught.value.problems)


def test_the_signing_key_is_stored_as_a_secret(world: World) -> None:
    key = signing.service_key(world.services.secrets)
    assert world.stored_secrets() == [signing.KEY_NAME]
    assert len(base64.b64decode(key.removeprefix(signing.KEY_PREFIX))) == 32


class _Frozen:
    """Stand-in for datetime in the verifier, which refuses old timestamps.

    Its time is that of the world's clock, which stands still.
    """

    def __init__(self, world: World):
        from datetime import datetime

        self._world, self.fromtimestamp = world, datetime.fromtimestamp

    def now(self, tz: Any = None) -> Any:
        return self._world.clock.now()
