"""What the Pub/Sub emulator never does: it answers each publish, and at once."""

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
    """Answers with `codes`, one a call, then takes what comes."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self.heard: list[Any] = []
        methods = {"Publish": (self._publish, types.PublishRequest, types.PublishResponse)}
        self.server, self.address = serve("google.pubsub.v1.Publisher", methods)

    def _publish(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.heard += request.messages
        if self.codes:
            context.abort(self.codes.pop(0), "not now")
        return types.PublishResponse(message_ids=[str(len(self.heard))])


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    found = Publisher()
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", found.address)
    yield found
    found.server.stop(None)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "UNKNOWN"])
def test_a_publish_that_may_succeed_later_is_tried_again_in_its_place(publisher: Publisher, code: str) -> None:
    publisher.codes = [grpc.StatusCode[code]]
    bus = PubSubBus("p")
    for body in (b"1", b"2"):
        bus.publish(Topic.JOB_STATUS, body, ordering_key="k")
    assert [message.data for message in publisher.heard] == [b"1", b"1", b"2"]


def test_a_publish_that_is_not_allowed_is_not_tried_again(publisher: Publisher) -> None:
    publisher.codes = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(PermissionDenied):
        PubSubBus("p").publish(Topic.JOB_STATUS, b"1")
    assert len(publisher.heard) == 1
