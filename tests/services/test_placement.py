"""Placement: from a request to the Cloud Run job that trains it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gemtune import llama_cpp
from gemtune.errors import RequestRefused
from gemtune.jobs.parts.results import StepResult
from gemtune.jobs.record import Claim
from gemtune.jobs.status import Step
from tests.fakes import World

ME = Claim(launch=1, execution="first")


@pytest.fixture
def cloud(world: World, tmp_path: Path) -> World:
    """Return a deployment with both GPU machines, on either backend.

    It has llama.cpp, whether this machine has it or not.
    """
    tools = tmp_path / "llama.cpp"
    tools.mkdir()
    (tools / llama_cpp.BUILT).touch()
    machines = ("l4", "rtx-pro-6000")
    world.services.settings = replace(world.services.settings, machines=machines, llama_cpp=tools)
    return world


def refusals(world: World, **training: object) -> dict[str, str]:
    with pytest.raises(RequestRefused) as caught:
        world.submit(training=training)
    return {".".join(map(str, problem.loc)): problem.code for problem in caught.value.problems}


def train_job(world: World, job_id: str) -> str:
    plan = world.services.control.claim(job_id, ME)
    assert plan is not None
    return plan[Step.TRAIN].job


def test_a_small_model_trains_on_the_first_machine_and_a_large_one_on_the_next(cloud: World) -> None:
    for model, machine in (("google/gemma-3-1b-it", "l4"), ("google/gemma-2-9b-it", "rtx-pro-6000")):
        job_id = cloud.submit(training={"base_model_id": model})
        assert cloud.services.store.get(job_id).machine == machine
        cloud.services.dispatch.launch(job_id)
        assert train_job(cloud, job_id) == f"gemtune-train-{machine}"


def test_a_training_that_fits_nowhere_and_an_unknown_machine_are_refused(cloud: World) -> None:
    at = "training_config.machine"
    assert refusals(cloud, base_model_id="google/gemma-3-27b-it", batch_size=64) == {at: "needs_larger_machine"}
    assert refusals(cloud, base_model_id="google/gemma-3-4b-it", batch_size=64, machine="l4") == {
        at: "needs_larger_machine"
    }
    assert refusals(cloud, machine="cpu") == {at: "machine_not_here"}
    assert refusals(cloud, machine="l4\n") == {at: "bad_form"}


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("./mine", "bad_base_model"),
        ("/srv/gemma-3-4b-it", "bad_base_model"),
        ("gs://no-bucket/x", "base_model_not_found"),
    ],
)
def test_a_model_that_cannot_be_looked_at_is_refused_before_a_machine_is_chosen(
    cloud: World, model: str, code: str
) -> None:
    facts = cloud.services.submit.read_facts
    deployment = replace(facts.deployment, local_folders=False)
    submit = replace(cloud.services.submit, read_facts=replace(facts, deployment=deployment))
    cloud.services.__dict__["submit"] = submit
    assert refusals(cloud, base_model_id=model) == {"training_config.base_model_id": code}


def test_the_size_of_a_model_in_a_bucket_is_that_of_its_files(cloud: World) -> None:
    data = cloud.services.buckets.data
    data.write("models/mine/config.json", b'{"model_type": "gemma3_text", "dtype": "bfloat16"}')
    data.write("models/mine/model.safetensors", b"x" * 1000)
    job_id = cloud.submit(training={"base_model_id": f"gs://{data.bucket}/models/mine"})
    assert cloud.services.store.get(job_id).machine == "l4"


def test_prepare_chooses_the_machine_for_a_model_of_unknown_size(cloud: World) -> None:
    job_id = cloud.submit(training={"base_model_id": "someone/secret-sauce"})
    assert cloud.services.store.get(job_id).machine is None
    cloud.services.dispatch.launch(job_id)
    assert train_job(cloud, job_id) == "gemtune-train-l4"  # a default, replaced before train runs
    begun = cloud.services.advance.begin(job_id, Step.PREPARE, ME, execution="run")
    assert begun is not None
    cloud.services.advance.finish(job_id, begun[1], StepResult(machine="rtx-pro-6000"))
    assert train_job(cloud, job_id) == "gemtune-train-rtx-pro-6000"


def test_a_large_export_gets_a_machine_with_enough_memory_or_is_refused(cloud: World) -> None:
    large = {"training": {"base_model_id": "google/gemma-2-9b-it", "method": "QLoRA"}}
    job_id = cloud.submit(**large, export_config={"format": "gguf"})
    job = cloud.services.store.get(job_id)
    assert (job.machine, job.export_machine) == ("l4", "rtx-pro-6000")
    cloud.services.dispatch.launch(job_id)
    plan = cloud.services.control.claim(job_id, ME)
    assert plan is not None
    assert plan[Step.EXPORT].job == "gemtune-export-rtx-pro-6000"
    assert cloud.services.store.get(cloud.submit(**large)).export_machine is None
    cloud.services.settings = replace(cloud.services.settings, machines=("l4",))
    del cloud.services.__dict__["submit"]
    with pytest.raises(RequestRefused) as caught:
        cloud.submit(**large, export_config={"format": "gguf"})
    assert [(p.loc, p.code) for p in caught.value.problems] == [(("export_config", "format"), "needs_larger_machine")]


def test_the_size_of_a_model_from_the_hub_is_that_of_its_earlier_copy(cloud: World) -> None:
    export, folder = cloud.services.buckets.export, "models/someone--secret-sauce/abc"
    export.write(f"{folder}/config.json", b'{"model_type": "gemma3_text", "dtype": "bfloat16"}')
    export.write(f"{folder}/model.safetensors", b"x" * 1000)
    job_id = cloud.submit(training={"base_model_id": "someone/secret-sauce"})
    assert cloud.services.store.get(job_id).machine == "l4"


@pytest.mark.parametrize("backend", ["embedded"], indirect=True)
def test_a_workstation_has_the_machine_local_only(world: World) -> None:
    for machine in ("local", None):
        job_id = world.submit(training={"base_model_id": "google/gemma-3-27b-it", "machine": machine})
        assert world.services.store.get(job_id).machine == "local"
    assert refusals(world, machine="l4") == {"training_config.machine": "machine_not_here"}
