"""The topic job-requests: one execution per launch, whatever is redelivered."""

from __future__ import annotations

import json

import pytest

from gemtune.jobs.record import Claim
from gemtune.ports import ExecutionState, Topic
from tests.fakes import World, request


def deliver(world: World, message: object, key: str = "job-requests/1") -> None:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    world.services.dispatch(body, key=key, owner="local")


def rejections(world: World) -> list[str]:
    return [problem["code"] for message in world.messages("test") for problem in message["problems"]]


@pytest.fixture
def listening(world: World) -> World:
    world.services.bus.subscribe("test", Topic.JOB_STATUS)
    return world


def test_a_redelivered_job_id_is_launched_once(world: World) -> None:
    job_id = world.submit()
    for _ in range(5):
        deliver(world, {"job_id": job_id})
    assert world.launcher.started == [(job_id, 1)]


def test_a_redelivered_request_becomes_one_job(world: World) -> None:
    for _ in range(5):
        deliver(world, request())
    ((job_id, launch),) = world.launcher.started
    assert launch == 1
    assert world.services.store.get(job_id).source == "pubsub"


def test_a_deleted_job_is_not_revived_by_late_messages(listening: World) -> None:
    deliver(listening, request())
    ((job_id, _),) = listening.launcher.started
    listening.services.cancel(job_id)
    listening.services.delete(job_id)
    for message in (request(), {"job_id": job_id}):
        deliver(listening, message)
    assert listening.launcher.started == [(job_id, 1)]
    assert rejections(listening) == []


def test_a_message_with_an_unknown_job_id_is_only_announced_as_rejected(listening: World) -> None:
    for job_id, code in (("training_never", "job_not_found"), ("../x", "bad_job_id")):
        deliver(listening, {"job_id": job_id, **request()})
        (message,) = listening.messages("test")
        (problem,) = message["problems"]
        assert (problem["loc"], problem["code"]) == (["job_id"], code)
        assert problem["msg"]
        assert problem["hint"]
    assert listening.launcher.started == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{", "not_json"),
        (b"\xff", "not_text"),
        ([], "not_an_object"),
        (b"", "not_json"),
        ({"job_id": "\ud800"}, "not_text"),
        ({"job_id": ["x"]}, "bad_job_id"),
        ({"job_id": "../x"}, "bad_job_id"),
        ({}, "missing_field"),
        (request(hf_token="hf_fakefakefake"), "secret_in_the_open"),
        (request(processed_dataset_id="nowhere"), "dataset_not_found"),
    ],
)
def test_a_message_that_can_never_succeed_is_announced_and_acknowledged(
    listening: World, message: object, code: str
) -> None:
    deliver(listening, message)
    assert code in rejections(listening)


def test_a_reused_key_is_announced_as_rejected(listening: World) -> None:
    deliver(listening, request(), key="k")
    deliver(listening, request(job_name="another"), key="k")
    assert rejections(listening) == ["idempotency_key_reused"]


def test_a_rejection_does_not_repeat_a_token_that_was_sent_as_the_key(listening: World) -> None:
    deliver(listening, request(), key="hf_fakefakefake")
    (message,) = listening.messages("test")
    assert message["problems"][0]["code"] == "bad_idempotency_key"
    assert "hf_fake" not in json.dumps(message)


def test_a_redelivery_after_a_failed_start_launches_at_once(world: World) -> None:
    job_id = world.submit()
    world.launcher.broken = ConnectionError("no route")
    with pytest.raises(ConnectionError):
        deliver(world, {"job_id": job_id})
    world.launcher.broken = None
    deliver(world, {"job_id": job_id})
    assert world.launcher.started == [(job_id, 2)]


def test_an_unclaimed_launch_is_repeated_when_its_lease_is_over(world: World) -> None:
    job_id = world.submit()
    deliver(world, {"job_id": job_id})
    world.clock.advance(minutes=2)
    world.services.sweep()
    assert world.launcher.started == [(job_id, 1)]
    world.clock.advance(minutes=2)
    world.launcher.states[f"{job_id}#1"] = ExecutionState.GONE
    world.services.sweep()
    assert world.launcher.started == [(job_id, 1), (job_id, 2)]
    assert world.services.control.claim(job_id, Claim(launch=1, execution="late")) is None
    assert world.services.control.claim(job_id, Claim(launch=2, execution="now")) is not None


def test_unclaimed_launches_are_repeated_with_a_backoff_and_finally_fail_the_job(listening: World) -> None:
    """Simulate a workflow that ends at once, or that control never answers."""
    job_id = listening.submit(hf_token="hf_fakefakefake")
    deliver(listening, {"job_id": job_id})
    minutes, launched_at = 0, [0]
    while not (job := listening.services.store.get(job_id)).is_over:
        listening.launcher.states[f"{job_id}#{job.launch.number}"] = ExecutionState.FAILED
        listening.clock.advance(minutes=1)
        minutes += 1
        listening.services.sweep()
        if len(listening.launcher.started) > len(launched_at):
            launched_at.append(minutes)
    assert launched_at == [0, 3, 9, 21, 45, 93]
    assert job.error is not None
    assert (job.status, job.error.code) == ("failed", "never_taken_up")
    assert "6 workflow executions" in job.error.message
    assert "failed" in job.error.message
    assert job.error.hint
    listening.services.fan_out(job_id)  # as the trigger of the record does
    assert [event["type"] for event in listening.messages("test")][-1] == "job_failed"
    assert listening.stored_secrets() == []
    listening.clock.advance(days=1)
    listening.services.sweep()
    assert len(listening.launcher.started) == 6


def test_a_claim_resets_the_count_of_unclaimed_launches(world: World) -> None:
    job_id = world.submit()
    deliver(world, {"job_id": job_id})
    for launch in (1, 2, 3):
        world.launcher.states[f"{job_id}#{launch}"] = ExecutionState.FAILED
        world.clock.advance(hours=1)
        world.services.sweep()
    claim = Claim(launch=4, execution=f"{job_id}#4")
    assert world.services.control.claim(job_id, claim) is not None
    world.launcher.states[claim.execution] = ExecutionState.FAILED
    world.services.sweep()
    job = world.services.store.get(job_id)
    assert (job.launch.number, job.launch.unclaimed) == (5, 0)
