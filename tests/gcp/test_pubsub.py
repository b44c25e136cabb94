"""Publishing when Pub/Sub refuses or fails, which its emulator never does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import PermissionDenied
from google.pubsub_v1 import types

from gemtune.gcp.pubsub_bus import PubSubBus
from gemtune.ports import Topic
from tests.emulators.grpc_service import serve


class Publisher:
    """Stand-in for Pub/Sub that answers with `codes` one by one, then accepts."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self.received: list[Any] = []
        methods = {"Publish": (self._publish, types.PublishRequest, types.PublishResponse)}
        self.server, self.address = serve("google.pubsub.v1.Publisher", methods)

    def _publish(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.received += request.messages
        if self.codes:
            context.abort(self.codes.pop(0), "not now")
        return types.PublishResponse(message_ids=[str(len(self.received))])


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    publisher = Publisher()
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", publisher.address)
    yield publisher
    publisher.server.stop(None)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "UNKNOWN"])
def test_a_publish_that_may_succeed_later_is_retried_in_order(publisher: Publisher, code: str) -> None:
    publisher.codes = [grpc.StatusCode[code]]
    bus = PubSubBus("p", "europe-west1")
    for body in (b"1", b"2"):
        bus.publish(Topic.JOB_STATUS, body, ordering_key="k")
    assert [message.data for message in publisher.received] == [b"1", b"1", b"2"]


def test_a_publish_that_is_not_allowed_is_not_retried(publisher: Publisher) -> None:
    publisher.codes = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(PermissionDenied):
        PubSubBus("p", "europe-west1").publish(Topic.JOB_STATUS, b"1")
    assert len(publisher.received) == 1


def test_ordered_messages_go_to_the_endpoint_of_one_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an emulator, the client's own endpoint would be the global one."""
    from google.auth.credentials import AnonymousCredentials

    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setattr("google.auth.default", lambda *args, **kwargs: (AnonymousCredentials(), "p"))
    publisher = PubSubBus("p", "europe-west1")._publisher
    assert publisher.api_endpoint == "europe-west1-pubsub.googleapis.com:443"
