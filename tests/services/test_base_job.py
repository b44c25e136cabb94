"""Requests that train on from a job: what they inherit, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gemtune.errors import JobHasChildren, RequestRefused
from gemtune.jobs.record import BaseWeights, Failure, Job
from gemtune.jobs.sources import Source
from gemtune.jobs.status import Step
from gemtune.request.parsing import read
from gemtune.request.spec import Spec, TrainRequest
from gemtune.request.training_config import TrainingConfig
from gemtune.services.acceptance.base_job import OF_ADAPTER, FindBaseJob, continue_from
from gemtune.services.acceptance.create_job import Submission
from tests.fakes import World, checked, request
from tests.services.test_export_again import export_again, trained
from tests.services.test_running import Running

GEMMA = "google/gemma-3-270m-it"
JOB = "training_config.base_job_id"


def train_on(world: World, job_id: str, key: str | None = None, modality: str = "text", **training: Any) -> Job:
    document = {
        "processed_dataset_id": "chats",
        "modality": modality,
        "training_config": {"base_job_id": job_id} | training,
    }
    return world.services.submit(Submission(read(json.dumps(document), Source.HTTP), Source.HTTP, "local", key))


def problems(world: World, job_id: str, **fields: Any) -> dict[str, str]:
    with pytest.raises(RequestRefused) as caught:
        train_on(world, job_id, **fields)
    return {".".join(map(str, problem.loc)): problem.code for problem in caught.value.problems}


def spec_of(world: World, job: Job) -> Spec:
    return Spec.model_validate_json(world.services.buckets.config.read(job.spec_name))


def finished(world: World, **training: Any) -> Running:
    """Return a job that trained, and was cancelled before its export."""
    running = trained(world, training={"base_model_id": GEMMA} | training)
    world.services.cancel(running.job_id)
    return running


def test_a_request_inherits_base_model_and_shape_of_the_adapter(world: World) -> None:
    parent = finished(world, lora_rank=4, lora_alpha=7.5, learning_rate=1e-3)
    job = train_on(world, parent.job_id, lora_rank=4)
    config = spec_of(world, job).training_config
    assert (config.base_model_id, config.lora_rank, config.lora_alpha) == (GEMMA, 4, 7.5)
    assert config.learning_rate == 2e-4
    assert (job.parent_job_id, job.base_job_id, job.lineage) == (parent.job_id, parent.job_id, (parent.job_id,))
    assert job.base_weights == BaseWeights(
        folder=f"jobs/{parent.job_id}/adapter/2", prepared=f"jobs/{parent.job_id}/prepared/2", is_adapter=True
    )
    assert (job.base_model_folder, job.base_model_id, job.trained_by) == (None, GEMMA, job.job_id)
    (event,) = world.services.store.events(job.job_id)
    assert event.details == {"parent_job_id": parent.job_id}


def test_a_model_is_trained_on_by_any_method_and_an_adapter_belongs_to_it(world: World) -> None:
    parent = finished(world, method="Full", lora_rank=2)
    folder = f"jobs/{parent.job_id}/model/2"
    world.services.buckets.export.write(f"{folder}/config.json", b'{"model_type": "gemma3_text"}')
    for method in ("Full", "LoRA", "RL"):
        rl = {"rl_config": {"algorithm": "dpo"}} if method == "RL" else {}
        job = train_on(world, parent.job_id, method=method, **rl)
        assert (job.base_model_folder, spec_of(world, job).training_config.lora_rank) == (folder, 16)
    to_the_hub = {"export_config": {"destination": "hfhub", "hf_repo_id": "me/mine"}, "hf_token": "hf_fakefakefake"}
    document = {"processed_dataset_id": "chats", "training_config": {"base_job_id": parent.job_id}} | to_the_hub
    with pytest.raises(RequestRefused) as caught:
        world.services.submit(Submission(read(json.dumps(document), Source.HTTP), Source.HTTP, "local"))
    assert [problem.code for problem in caught.value.problems] == ["adapter_of_trained_model"]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"lora_rank": 16}, {"training_config.lora_rank": "differs_from_base_job"}),
        (
            {"lora_alpha": 1, "base_model_id": "google/gemma-3-1b-it"},
            dict.fromkeys(("training_config.lora_alpha", "training_config.base_model_id"), "differs_from_base_job"),
        ),
        ({"train_vision_tower": True}, {"training_config.train_vision_tower": "differs_from_base_job"}),
        ({"method": "Full"}, {"training_config.method": "differs_from_base_job"}),
        ({"lerning_rate": 1}, {"training_config.lerning_rate": "unknown_field"}),
    ],
)
def test_what_differs_from_the_base_job_is_refused_by_name(
    world: World, stated: Mapping[str, Any], expected: Mapping[str, str]
) -> None:
    parent = finished(world, lora_rank=4)
    assert problems(world, parent.job_id, **stated) == expected
    assert len(world.services.store.page(status=None, modality=None, limit=9, page_token=None).jobs) == 1


def test_a_job_without_trained_weights_is_refused_with_the_reason(world: World) -> None:
    assert problems(world, "training_nope") == {JOB: "base_job_not_found"}
    assert problems(world, "No job") == {JOB: "bad_form"}
    running = trained(world)
    assert problems(world, running.job_id) == {JOB: "base_job_not_finished"}
    failed = Running(world)
    fence = failed.begin(Step.PREPARE)
    failed.services.advance.fail(failed.job_id, fence, Failure(code="x", message="x"))
    assert problems(world, failed.job_id) == {JOB: "base_job_unusable"}
    world.services.cancel(running.job_id)
    world.services.delete(running.job_id)
    assert problems(world, running.job_id) == {JOB: "base_job_not_found"}


def test_an_export_stands_for_the_job_that_trained(world: World) -> None:
    root = finished(world)
    middle = Running(world)
    middle.job_id = train_on(world, export_again(world, root.job_id).job_id).job_id
    assert middle.job.parent_job_id == root.job_id
    world.services.dispatch.launch(middle.job_id)


def test_a_job_is_deleted_after_those_that_trained_on_from_it(world: World) -> None:
    root = finished(world)
    child = train_on(world, root.job_id)
    with pytest.raises(JobHasChildren, match=f"{child.job_id} goes on from what '{root.job_id}' trained") as caught:
        world.services.delete(root.job_id)
    assert child.job_id in str(caught.value.hint)
    done = child.model_copy(update={"steps": {**child.steps, Step.TRAIN: root.job.steps[Step.TRAIN]}})
    world.services.store.update(child.job_id, lambda job: (done, ()))
    world.services.cancel(child.job_id)
    with pytest.raises(JobHasChildren):  # it has trained
        world.services.delete(root.job_id)
    grandchild = train_on(world, child.job_id)
    assert grandchild.lineage == (child.job_id, root.job_id)
    exported = export_again(world, child.job_id)
    assert (exported.parent_job_id, exported.lineage, exported.trained_by) == (
        child.job_id,
        (root.job_id,),
        child.job_id,
    )
    for job_id in (exported.job_id, grandchild.job_id):
        world.services.cancel(job_id)
    world.services.delete(child.job_id)  # its grandchild trained nothing
    world.services.delete(root.job_id)


def test_a_base_job_that_is_deleted_meanwhile_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = finished(world)
    find = FindBaseJob.__call__

    def delete_after(self: FindBaseJob, reading: Any) -> Any:
        continuation = find(self, reading)
        world.services.delete(parent.job_id)
        return continuation

    monkeypatch.setattr(FindBaseJob, "__call__", delete_after)
    assert problems(world, parent.job_id) == {JOB: "base_job_not_found"}
    assert world.stored_specs() == []


def test_a_job_that_trains_on_during_the_delete_of_its_base_job_prevents_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, children, store = finished(world), [], type(world.services.store)
    children_in_need = store.children_in_need

    def create_child_after(self: Any, job_id: str) -> Any:
        in_need = children_in_need(self, job_id)
        if not children:  # between reading the children and the delete
            children.append(train_on(world, parent.job_id))
        return in_need

    monkeypatch.setattr(store, "children_in_need", create_child_after)
    with pytest.raises(JobHasChildren):
        world.services.delete(parent.job_id)


def test_a_repeated_request_returns_its_job_though_the_base_job_is_gone(world: World) -> None:
    parent = finished(world)
    job = train_on(world, parent.job_id, "key")
    world.services.cancel(job.job_id)
    world.services.delete(parent.job_id)
    assert train_on(world, parent.job_id, "key").job_id == job.job_id


def test_a_model_whose_vision_tower_was_trained_too_is_trained_on_with_text() -> None:
    training = {"base_model_id": "google/gemma-3-4b-it", "train_vision_tower": True, "method": "Full"}
    spec = checked(request(modality="vision", training=training)).require_valid().spec()
    body = {"processed_dataset_id": "chats", "training_config": {"base_job_id": "training_x"}}
    completed, refusals = continue_from(TrainRequest.model_validate(body), "training_x", spec)
    assert (refusals, completed.training_config.train_vision_tower) == ([], False)


@pytest.mark.parametrize(("modality", "refused"), [("vision", []), ("text", [("modality", "differs_from_base_job")])])
def test_an_adapter_on_a_vision_tower_is_trained_on_with_pictures_only(
    modality: str, refused: list[tuple[str, str]]
) -> None:
    training = {"base_model_id": "google/gemma-3-4b-it", "train_vision_tower": True}
    spec = checked(request(modality="vision", training=training)).require_valid().spec()
    body = {"processed_dataset_id": "chats", "modality": modality, "training_config": {"base_job_id": "training_y"}}
    completed, refusals = continue_from(TrainRequest.model_validate(body), "training_x", spec)
    assert [(problem.loc[-1], problem.code) for problem in refusals] == refused
    config = completed.training_config
    assert (config.base_job_id, config.base_model_id) == ("training_x", "google/gemma-3-4b-it")
    assert config.train_vision_tower is (modality == "vision")


SHAPE = {
    "lora_rank": 4,
    "lora_alpha": 7.5,
    "target_modules": ["q_proj", "v_proj"],
    "use_rslora": True,
    "use_dora": True,
    "new_tokens": ["<a>", "<b>"],
    "train_embeddings": True,
}
OTHER_SHAPE = {
    "lora_rank": 8,
    "lora_alpha": 7,
    "target_modules": ["q_proj"],
    "use_rslora": False,
    "use_dora": False,
    "new_tokens": ["<a>"],
    "train_embeddings": False,
}


def continued(**training: Any) -> tuple[TrainingConfig, list[str]]:
    """Return what a request inherits from a job of SHAPE, and what differs."""
    spec = checked(request(training={"base_model_id": GEMMA} | SHAPE)).require_valid().spec()
    body = {"processed_dataset_id": "chats", "training_config": {"base_job_id": "training_x"} | training}
    completed, refusals = continue_from(TrainRequest.model_validate(body), "training_x", spec)
    return completed.training_config, [str(problem.loc[-1]) for problem in refusals]


def test_everything_that_shapes_an_adapter_is_inherited_stated_or_not() -> None:
    for stated in ({}, SHAPE, {"target_modules": ["v_proj", "q_proj"]}):
        config, refused = continued(**stated)
        assert (config.model_dump(include=set(SHAPE)), refused) == (SHAPE, [])


def test_every_field_that_shapes_an_adapter_is_tested() -> None:
    """The tests of adapters on a vision tower cover its field."""
    assert {*SHAPE, "train_vision_tower"} == {*OTHER_SHAPE, "train_vision_tower"} == {*OF_ADAPTER}


@pytest.mark.parametrize("name", OTHER_SHAPE)
def test_another_shape_of_the_adapter_is_refused(name: str) -> None:
    config, refused = continued(**{name: OTHER_SHAPE[name]})
    assert (getattr(config, name), refused) == (SHAPE[name], [name])
