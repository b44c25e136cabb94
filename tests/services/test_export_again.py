"""Exporting again: a job of its own, from any job that is over and has trained."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gemtune.errors import (
    JobHasChildren,
    JobIsRunning,
    JobNotFound,
    KeyReused,
    NothingTrained,
    RequestRefused,
    SpecUnreadable,
)
from gemtune.jobs.record import Claim, Failure, Job, Metrics, StepResult
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Step
from gemtune.request.parsing import read_export
from gemtune.services.acceptance.create_job import Submission
from tests.fakes import World
from tests.services.test_running import Running


def export_again(world: World, job_id: str, key: str | None = None, **fields: Any) -> Job:
    document = json.dumps({"export_config": {"format": "adapter"}} | fields)
    return world.services.export_again(job_id, Submission(read_export(document), Source.HTTP, "local", key))


def problems(world: World, job_id: str, **fields: Any) -> dict[str, str]:
    with pytest.raises(RequestRefused) as caught:
        export_again(world, job_id, **fields)
    return {".".join(map(str, problem.loc)): problem.code for problem in caught.value.problems}


def trained(world: World, **fields: Any) -> Running:
    """A job that trained, and whose export has begun."""
    running = Running(world, **fields)
    for step in (Step.PREPARE, Step.TRAIN):
        running.begin(step)
        fence = running.begin(step)  # the second attempt of each
        running.services.advance.finish(running.job_id, fence, StepResult(metrics=Metrics(eval_loss=1.5)))
    running.begin(Step.EXPORT)
    return running


@pytest.fixture
def parent(world: World) -> Running:
    running = trained(world, job_name="Mine", hf_token="hf_fakefakefake")
    world.services.cancel(running.job_id)
    world.services.fan_out(running.job_id)  # with which its secrets go
    world.messages("requests")
    return running


def test_what_a_newer_version_trained_by_its_own_rules_is_not_exported_here_but_deleted(
    world: World, parent: Running
) -> None:
    config, name = world.services.buckets.config, parent.job.spec_name
    spec = json.loads(config.read(name)) | {"curriculum": ["easy", "hard"]}
    config.write(name, json.dumps(spec).encode())
    with pytest.raises(SpecUnreadable, match="curriculum"):
        export_again(world, parent.job_id)
    world.services.delete(parent.job_id)
    assert world.stored_specs() == []


def test_what_is_exported_again_is_a_job_of_its_own(world: World, parent: Running) -> None:
    child = export_again(world, parent.job_id, hf_token="hf_fakefakefake2")
    assert (child.parent_job_id, child.status, child.job_name) == (parent.job_id, "queued", "Mine")
    assert child.job_id.startswith("export_chats_gemma-3-270m-it_")
    assert {step: (record.state, record.attempt) for step, record in child.steps.items()} == {
        Step.PREPARE: ("done", 2),
        Step.TRAIN: ("done", 2),
        Step.EXPORT: ("pending", 0),
    }
    assert child.metrics == parent.job.metrics
    assert (child.claim, child.artifacts, child.adapter_path) == (None, (), None)
    assert world.services.advance.secret(child, "hf_token") == "hf_fakefakefake2"
    spec = json.loads(world.services.buckets.config.read(child.spec_name))
    own = json.loads(world.services.buckets.config.read(parent.job.spec_name))
    assert spec == own
    assert child.spec_name != parent.job.spec_name
    assert world.messages("requests") == [spec | {"job_id": child.job_id}]


def test_it_has_its_own_claim_and_its_own_end_and_runs_nothing_but_the_export(world: World, parent: Running) -> None:
    before = parent.job
    child = export_again(world, parent.job_id)
    world.services.dispatch.launch(child.job_id)
    claim = Claim(launch=1, execution="child")
    plan = world.services.control.claim(child.job_id, claim)
    assert plan is not None
    assert {step: job.done for step, job in plan.items()} == {
        Step.PREPARE: True,
        Step.TRAIN: True,
        Step.EXPORT: False,
    }
    begun = world.services.advance.begin(child.job_id, Step.EXPORT, claim, execution="x")
    assert begun is not None
    world.services.advance.finish(child.job_id, begun[1], StepResult(adapter_path="there"))
    events = world.services.store.events(child.job_id)
    assert [event.type for event in events] == ["job_queued", "job_exporting", "job_completed"]
    after = parent.job
    assert (after.status, after.adapter_path, after.last_seq) == (before.status, before.adapter_path, before.last_seq)


def test_the_webhook_and_the_tokens_of_the_parent_are_not_taken_over(world: World) -> None:
    world.services.secrets.create("gemtune-user-mine", "hf_fakefakefake", ttl=None)
    running = trained(world, hf_token="secret:gemtune-user-mine", notify={"webhook_url": "https://example.com/x"})
    running.services.cancel(running.job_id)
    child = export_again(world, running.job_id)
    assert (child.webhook_url, child.secret_names) == (None, {})
    child = export_again(world, running.job_id, job_name="Its own", notify={"webhook_url": "https://example.org/y"})
    assert (child.webhook_url, child.job_name) == ("https://example.org/y", "Its own")


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_however_a_job_ended_what_it_trained_is_exported(world: World, end: str) -> None:
    running = trained(world)
    with pytest.raises(JobIsRunning):
        export_again(world, running.job_id)
    fence = running.begin(Step.EXPORT)
    if end == "completed":
        running.services.advance.finish(running.job_id, fence)
    elif end == "failed":
        running.services.advance.fail(running.job_id, fence, Failure(code="x", message="x"))
    else:
        running.services.cancel(running.job_id)
    assert running.status == end
    assert export_again(world, running.job_id).status == "queued"


def test_a_job_that_did_not_finish_its_training_has_nothing_to_export(world: World) -> None:
    running = Running(world)
    running.services.advance.finish(running.job_id, running.begin(Step.PREPARE))
    running.begin(Step.TRAIN)
    running.services.cancel(running.job_id)
    with pytest.raises(NothingTrained):
        export_again(world, running.job_id)
    with pytest.raises(JobNotFound):
        export_again(world, "training_nope")


def test_an_export_of_an_export_is_one_of_what_was_trained(world: World, parent: Running) -> None:
    first = export_again(world, parent.job_id)
    second = export_again(world, first.job_id)
    assert second.parent_job_id == parent.job_id
    world.services.cancel(first.job_id)
    world.services.delete(first.job_id)
    world.services.cancel(second.job_id)
    world.services.delete(parent.job_id)
    with pytest.raises(NothingTrained):
        export_again(world, second.job_id)


def test_a_parent_stays_while_a_child_exports_and_a_child_keeps_its_own(world: World, parent: Running) -> None:
    child = export_again(world, parent.job_id)
    with pytest.raises(JobHasChildren) as caught:
        world.services.delete(parent.job_id)
    assert child.job_id in str(caught.value.hint)
    world.services.cancel(child.job_id)
    world.services.buckets.export.write(f"jobs/{child.job_id}/export/1/x", b"x")
    world.services.delete(parent.job_id)
    assert world.services.store.get(child.job_id).status == "cancelled"
    assert world.services.buckets.export.read(f"jobs/{child.job_id}/export/1/x") == b"x"


def test_a_child_that_comes_while_its_parent_is_being_deleted_is_seen_or_refused(
    world: World, parent: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, born = world.services.store, []
    look = type(store).unfinished_children

    def slow_look(self: Any, job_id: str) -> Any:
        found = look(self, job_id)
        if not born:  # between the look for children and the delete
            born.append(export_again(world, parent.job_id))
        return found

    monkeypatch.setattr(type(store), "unfinished_children", slow_look)
    with pytest.raises(JobHasChildren):
        world.services.delete(parent.job_id)


def test_everything_wrong_is_told_at_once(world: World, parent: Running) -> None:
    wrong = {
        "export_config": {"format": "adapter", "quantization": "q4", "formt": 1},
        "hf_token": "secret:gemtune-user-no",
        "training_config": {},
        "notify": {"webhook_url": "ftp://x"},
    }
    assert problems(world, parent.job_id, **wrong) == {
        "export_config.formt": "unknown_field",
        "training_config": "unknown_field",
        "export_config.quantization": "quantization_not_in_format",
        "hf_token": "secret_not_found",
        "notify.webhook_url": "bad_webhook_url",
    }
    assert problems(world, parent.job_id, export_config=1) == {"export_config": "model_type"}
    with pytest.raises(RequestRefused):
        world.services.export_again(parent.job_id, Submission(read_export("{}"), Source.HTTP, "local"))
    assert world.stored_secrets() == []


def test_the_hub_needs_a_token_of_the_request_or_of_the_service(world: World, parent: Running) -> None:
    to_the_hub = {"export_config": {"destination": "hfhub", "hf_repo_id": "me/mine"}}
    assert problems(world, parent.job_id, **to_the_hub) == {"hf_token": "missing_field"}
    assert problems(world, parent.job_id, export_config={"destination": "hfhub"}) == {
        "export_config.hf_repo_id": "missing_field",
        "hf_token": "missing_field",
    }
    child = export_again(world, parent.job_id, **to_the_hub, hf_token="hf_fakefakefake")
    assert set(child.secret_names) == {"hf_token"}
    world.services.__dict__.pop("submit"), world.services.__dict__.pop("export_again")
    world.services.settings = replace(world.services.settings, service_hf_token="gemtune-service-hub")
    assert export_again(world, parent.job_id, **to_the_hub).secret_names == {}


def test_a_dataset_that_is_gone_is_no_reason_not_to_export(world: World, parent: Running) -> None:
    world.services.buckets.data.delete("processed_datasets/chats/train.jsonl")
    assert export_again(world, parent.job_id).status == "queued"


def test_a_repeated_key_is_the_same_export_of_the_same_job_only(world: World, parent: Running) -> None:
    child = export_again(world, parent.job_id, "k", hf_token="hf_fakefakefake")
    assert export_again(world, parent.job_id, "k", hf_token="hf_fakefakefake").job_id == child.job_id
    assert len(world.stored_secrets()) == len([name for name in world.stored_specs() if child.job_id in name]) == 1
    with pytest.raises(KeyReused):
        export_again(world, parent.job_id, "k", job_name="another")
    with pytest.raises(KeyReused):
        export_again(world, child.job_id, "k")
    with pytest.raises(KeyReused):
        world.submit("k")
    world.services.cancel(child.job_id)
    world.services.delete(parent.job_id)
    assert export_again(world, parent.job_id, "k").job_id == child.job_id
