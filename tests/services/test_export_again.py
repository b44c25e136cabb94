"""Export jobs: created from any job that is over and has trained."""

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
from gemtune.jobs.parts.metrics import Metrics
from gemtune.jobs.parts.results import StepResult
from gemtune.jobs.record import Claim, Failure, Job
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
    """Return a job that has trained, and whose export has begun."""
    running = Running(world, **fields)
    for step in (Step.PREPARE, Step.TRAIN):
        running.begin(step)
        fence = running.begin(step)  # as the second attempt of each step
        running.services.advance.finish(running.job_id, fence, StepResult(metrics=Metrics(eval_loss=1.5)))
    running.begin(Step.EXPORT)
    return running


@pytest.fixture
def parent(world: World) -> Running:
    running = trained(world, job_name="Mine", hf_token="hf_fakefakefake")
    world.services.cancel(running.job_id)
    world.services.fan_out(running.job_id)  # this deletes its secrets
    world.messages("requests")
    return running


def test_a_job_with_a_spec_of_a_newer_version_can_be_deleted_but_not_exported(world: World, parent: Running) -> None:
    config, name = world.services.buckets.config, parent.job.spec_name
    spec = json.loads(config.read(name)) | {"curriculum": ["easy", "hard"]}
    config.write(name, json.dumps(spec).encode())
    with pytest.raises(SpecUnreadable, match="curriculum"):
        export_again(world, parent.job_id)
    world.services.delete(parent.job_id)
    assert world.stored_specs() == []


def test_an_export_again_is_a_new_job(world: World, parent: Running) -> None:
    child = export_again(world, parent.job_id, hf_token="hf_fakefakefake2")
    assert (child.parent_job_id, child.status, child.job_name) == (parent.job_id, "queued", "Mine")
    assert child.job_id.startswith("export_chats_gemma-3-270m-it_")
    assert {step: (record.state, record.attempt) for step, record in child.steps.items()} == {
        Step.PREPARE: ("done", 2),
        Step.TRAIN: ("done", 2),
        Step.EXPORT: ("pending", 0),
    }
    assert (child.metrics, child.machine) == (parent.job.metrics, parent.job.machine)
    assert child.machine is not None
    assert (child.claim, child.artifacts, child.adapter_path) == (None, (), None)
    assert world.services.advance.secret(child, "hf_token") == "hf_fakefakefake2"
    spec = json.loads(world.services.buckets.config.read(child.spec_name))
    own = json.loads(world.services.buckets.config.read(parent.job.spec_name))
    assert spec == own
    assert child.spec_name != parent.job.spec_name
    assert world.messages("requests") == [spec | {"job_id": child.job_id}]


def test_an_export_job_runs_only_the_export_under_its_own_claim(world: World, parent: Running) -> None:
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
    world.services.advance.finish(child.job_id, begun[1], StepResult(adapter_path="adapter"))
    events = world.services.store.events(child.job_id)
    assert [event.type for event in events] == ["job_queued", "job_exporting", "job_completed"]
    after = parent.job
    assert (after.status, after.adapter_path, after.last_seq) == (before.status, before.adapter_path, before.last_seq)


def test_an_export_job_does_not_inherit_webhook_and_tokens(world: World) -> None:
    world.services.secrets.create("gemtune-user-mine", "hf_fakefakefake", ttl=None)
    running = trained(world, hf_token="secret:gemtune-user-mine", notify={"webhook_url": "https://example.com/x"})
    running.services.cancel(running.job_id)
    child = export_again(world, running.job_id)
    assert (child.webhook_url, child.secret_names) == (None, {})
    child = export_again(world, running.job_id, job_name="Its own", notify={"webhook_url": "https://example.org/y"})
    assert (child.webhook_url, child.job_name) == ("https://example.org/y", "Its own")


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_a_trained_job_can_be_exported_however_it_ended(world: World, end: str) -> None:
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


def test_a_job_with_unfinished_training_cannot_be_exported(world: World) -> None:
    running = Running(world)
    running.services.advance.finish(running.job_id, running.begin(Step.PREPARE))
    running.begin(Step.TRAIN)
    running.services.cancel(running.job_id)
    with pytest.raises(NothingTrained):
        export_again(world, running.job_id)
    with pytest.raises(JobNotFound):
        export_again(world, "training_nope")


def test_an_export_of_an_export_belongs_to_the_job_that_trained(world: World, parent: Running) -> None:
    first = export_again(world, parent.job_id)
    second = export_again(world, first.job_id)
    assert second.parent_job_id == parent.job_id
    world.services.cancel(first.job_id)
    world.services.delete(first.job_id)
    world.services.cancel(second.job_id)
    world.services.delete(parent.job_id)
    with pytest.raises(NothingTrained):
        export_again(world, second.job_id)


def test_a_parent_cannot_be_deleted_while_a_child_exports_and_its_files_stay(world: World, parent: Running) -> None:
    child = export_again(world, parent.job_id)
    with pytest.raises(JobHasChildren) as caught:
        world.services.delete(parent.job_id)
    assert child.job_id in str(caught.value.hint)
    world.services.cancel(child.job_id)
    world.services.buckets.export.write(f"jobs/{child.job_id}/export/1/x", b"x")
    world.services.delete(parent.job_id)
    assert world.services.store.get(child.job_id).status == "cancelled"
    assert world.services.buckets.export.read(f"jobs/{child.job_id}/export/1/x") == b"x"


def test_a_child_created_during_the_delete_of_its_parent_prevents_it(
    world: World, parent: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, children = world.services.store, []
    children_in_need = type(store).children_in_need

    def create_child_after(self: Any, job_id: str) -> Any:
        in_need = children_in_need(self, job_id)
        if not children:  # between reading the children and the delete
            children.append(export_again(world, parent.job_id))
        return in_need

    monkeypatch.setattr(type(store), "children_in_need", create_child_after)
    with pytest.raises(JobHasChildren):
        world.services.delete(parent.job_id)


def test_all_problems_of_an_export_request_are_reported_at_once(world: World, parent: Running) -> None:
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


def test_a_job_can_be_exported_after_its_dataset_is_gone(world: World, parent: Running) -> None:
    world.services.buckets.data.delete("processed_datasets/chats/train.jsonl")
    assert export_again(world, parent.job_id).status == "queued"


def test_a_repeated_request_is_published_again_until_its_job_is_launched(world: World, parent: Running) -> None:
    child = export_again(world, parent.job_id, "k")
    (first,) = world.messages("requests")
    assert export_again(world, parent.job_id, "k").job_id == child.job_id
    assert world.messages("requests") == [first]
    world.services.dispatch.launch(child.job_id)
    assert export_again(world, parent.job_id, "k").job_id == child.job_id
    assert world.messages("requests") == []


def test_a_repeated_key_returns_the_export_of_the_same_job_only(world: World, parent: Running) -> None:
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
