"""Attributes, keys and bodies of published messages, as documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemtune.jobs.record import Claim
from gemtune.jobs.sources import Source
from gemtune.ports import ExecutionState, ReceivedMessage, Topic
from gemtune.services.acceptance.create_job import Submission
from tests.fakes import World, reading


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a world on one backend: only the services choose messages."""
    world = World(tmp_path / "home")
    for topic in (Topic.JOB_STATUS, Topic.WEBHOOKS):
        world.services.bus.subscribe(f"all-{topic}", topic)
    return world


def received(world: World, topic: Topic) -> list[ReceivedMessage]:
    """Pull and acknowledge all messages of a topic."""
    messages: list[ReceivedMessage] = []
    while more := world.services.bus.pull(f"all-{topic}", 100):
        world.services.bus.ack(f"all-{topic}", [message.ack_id for message in more])
        messages += more
    return messages


def test_an_event_is_published_with_attributes_to_filter_by(world: World) -> None:
    job_id = world.submit(key="my key")
    world.services.cancel(job_id)
    world.services.fan_out(job_id)
    messages = [(message.attributes, message.ordering_key) for message in received(world, Topic.JOB_STATUS)]
    common = {"job_id": job_id, "modality": "text", "idempotency_key": "my key"}
    assert messages == [
        (common | {"type": "job_queued", "status": "queued"}, job_id),
        (common | {"type": "job_cancelled", "status": "cancelled"}, job_id),
    ]
    assert received(world, Topic.WEBHOOKS) == []


def test_a_job_without_a_key_has_an_empty_one_in_its_messages(world: World) -> None:
    job_id = world.submit(notify={"webhook_url": "https://example.com/hook"})
    world.services.fan_out(job_id)
    (status,) = received(world, Topic.JOB_STATUS)
    (webhook,) = received(world, Topic.WEBHOOKS)
    assert status.attributes["idempotency_key"] == ""
    assert (webhook.attributes, webhook.ordering_key) == ({"job_id": job_id}, "")
    assert json.loads(webhook.message) == {
        "url": "https://example.com/hook",
        "event": json.loads(status.message),
    }


@pytest.mark.parametrize(
    ("key", "shown", "problem"),
    [
        ("my key", "my key", {"loc": ["training_config"], "code": "missing_field"}),
        ("k hf_fakefakefakefakefake", "k [secret]", {"loc": [], "code": "bad_idempotency_key"}),
    ],
)
def test_a_message_that_can_never_succeed_is_announced(world: World, key: str, shown: str, problem: Any) -> None:
    world.services.dispatch(b'{"processed_dataset_id": "chats"}', key=key, owner="local")
    (rejected,) = received(world, Topic.JOB_STATUS)
    assert rejected.attributes == {"type": "job_rejected", "idempotency_key": shown}
    body = json.loads(rejected.message)
    (reported,) = body.pop("problems")
    assert body == {"type": "job_rejected", "at": world.clock.now().isoformat(), "idempotency_key": shown}
    assert {name: reported[name] for name in problem} == problem


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (ExecutionState.FAILED, "execution_failed"),
        (ExecutionState.SUCCEEDED, "execution_succeeded"),
        (ExecutionState.GONE, "execution_gone"),
    ],
)
def test_the_event_of_a_relaunch_contains_its_cause(world: World, state: ExecutionState, cause: str) -> None:
    job_id = world.submit()
    world.services.dispatch.launch(job_id)
    world.services.control.claim(job_id, Claim(launch=1, execution="first"))
    world.launcher.states["first"] = state
    world.services.sweep()
    (event,) = [event for event in world.services.store.events(job_id) if event.type == "job_relaunched"]
    assert event.details == {"launch": 2, "cause": cause}


def test_the_key_of_an_upload_is_its_file_and_generation(world: World) -> None:
    uploads = world.services.buckets.uploads
    uploads.write("deep/x.job.json", json.dumps(request_body()).encode())
    generation = uploads.generation("deep/x.job.json")
    assert generation is not None
    world.services.ingest(uploads.bucket, "deep/x.job.json", generation, owner="local")
    job_id = json.loads(uploads.read("deep/x.accepted.json"))["job_id"]
    assert world.services.store.get(job_id).idempotency_key == f"{uploads.bucket}/deep/x.job.json#{generation}"


def request_body() -> dict[str, object]:
    return {"processed_dataset_id": "chats", "training_config": {"base_model_id": "google/gemma-3-270m-it"}}


def test_a_delete_removes_only_the_tokens_of_the_job_itself(world: World) -> None:
    """Delete them even if the last event, which does so too, is not published."""
    world.services.secrets.create("gemtune-user-mine", "hf_fakefakefake", ttl=None)
    read = reading(hf_token="hf_fakefakefake", wandb_config={"api_key": "secret:gemtune-user-mine"})
    job_id = world.services.submit(Submission(read, Source.HTTP, "local", None)).job_id
    assert len(world.stored_secrets()) == 2
    world.services.cancel(job_id)
    world.services.delete(job_id)
    assert world.stored_secrets() == ["gemtune-user-mine"]
