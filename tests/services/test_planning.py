"""Plans of jobs: before the request, after prepare, and against what happened."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemtune.errors import RequestRefused
from gemtune.jobs.parts.plan import Workload
from gemtune.jobs.parts.results import StepResult
from gemtune.jobs.status import Step
from gemtune.request.facts import Facts
from gemtune.request.spec import read_spec
from gemtune.services.planning.planner import Workstation
from tests.fakes import World, reading
from tests.services.test_running import Running

ROW = json.dumps(
    {"messages": [{"role": "user", "content": "ask " * 20}, {"role": "assistant", "content": "say " * 20}]}
)


@pytest.fixture
def planned(world: World) -> World:
    world.services.buckets.data.write("processed_datasets/chats/train.jsonl", (ROW + "\n").encode() * 200)
    return world


def plan_of(world: World, **fields: Any) -> Any:
    return world.services.planner.of_request(*world.services.submit.rehearse(reading(**fields), owner="local"))


def test_a_request_is_planned_without_creating_anything(planned: World) -> None:
    plan = plan_of(planned, hf_token="hf_fakefakefake", training={"epochs": 2, "batch_size": 2})
    on_gcp = planned.services.settings.on_gcp
    assert plan.machine == ("l4" if on_gcp else "local")
    assert not plan.exact
    assert plan.train_steps.expected == 50  # 200 rows in batches of 2 times 4, twice
    # 200 rows of about 60 tokens, twice
    assert plan.tokens.least < 2 * 200 * 60 < plan.tokens.most
    assert 0 < plan.minutes.least < plan.minutes.expected < plan.minutes.most
    assert plan.usd is not None
    assert (plan.usd.expected > 0) if on_gcp else (plan.usd.most == 0)
    assert plan.prices == planned.services.prices.origin
    assert plan.memory.main_needed > 0
    assert {step.basis for step in plan.steps.values()} == {"estimated"}
    assert planned.stored_specs() == planned.stored_secrets() == planned.messages("requests") == []
    assert planned.services.store.page(status=None, modality=None, limit=9, page_token=None).jobs == []


def test_a_request_that_would_be_refused_is_not_planned(planned: World) -> None:
    with pytest.raises(RequestRefused):
        plan_of(
            planned,
            training={
                "base_model_id": "google/gemma-3-270m-it",
                "warmup_ratio": 0.5,
                "packing": True,
                "early_stopping_patience": 3,
            },
        )


def test_a_plan_says_what_would_fit(world: World) -> None:
    """Follow its advice, which has to fit."""
    planner = replace(world.services.planner, workstation=Workstation(cores=8, memory_gib=24.0))
    _, facts = world.services.submit.rehearse(reading(), owner="local")
    if world.services.settings.on_gcp:
        return  # a request that does not fit is refused there
    for model, advice in (
        ("google/gemma-3-27b-it", "base_model_id google/gemma-3-"),
        ("google/gemma-3-4b-it", "method "),
    ):
        training = {"base_model_id": model, "method": "Full"}
        spec, facts = world.services.submit.rehearse(reading(training=training), owner="local")
        plan = planner.of_request(spec, facts)
        assert plan.memory is not None
        assert plan.memory.main_needed > 24.0
        assert plan.alternatives
        assert all(each.fits for each in plan.alternatives)
        change = plan.alternatives[-1].change
        assert change.startswith(advice), change
        words = change.replace(" and ", " ").split()
        changed = {
            name: int(text) if text.isdigit() else text for name, text in zip(words[::2], words[1::2], strict=True)
        }
        followed = planner.of_request(
            *world.services.submit.rehearse(reading(training=training | changed), owner="local")
        )
        assert followed.memory is not None
        assert followed.memory.main_needed <= 24.0


def test_a_dataset_that_cannot_be_counted_leaves_the_time_unknown(world: World) -> None:
    data = world.services.buckets.data
    data.delete("processed_datasets/chats/train.jsonl")
    data.write("processed_datasets/chats/train.jsonl.gz", b"x" * 999)
    plan = plan_of(world, training={"max_steps": 7})
    assert (plan.train_steps.most, plan.tokens, plan.minutes, plan.usd) == (7, None, None, None)


def run(world: World, tokens: int, seconds: float) -> Running:
    """Run a job whose steps take so long, with the plan that prepare makes."""
    running = Running(world)
    services, spec = world.services, read_spec(world.services.buckets.config.read(running.job.spec_name))
    _, facts = services.submit.rehearse(reading(), owner="local")
    workload = Workload(train_steps=10, tokens=tokens, longest_row=100, rows_tokens=tokens // 2)
    machine = services.settings.machines[0]
    plan = services.planner.of_workload(spec, facts.size, workload, machine, None)
    results = {Step.PREPARE: StepResult(machine=machine, workload=workload, plan=plan)}
    for step in Step:
        fence = running.begin(step)
        world.clock.advance(seconds=seconds if step is Step.TRAIN else 20)
        services.advance.finish(running.job_id, fence, results.get(step, StepResult()))
        assert running.ended(step) == "done"
    return running


def test_plans_learn_from_finished_jobs(planned: World) -> None:
    for tokens in (10_000, 20_000, 40_000):
        run(planned, tokens, seconds=100 + tokens / 100)
    last = run(planned, 80_000, seconds=900)
    plan = last.job.plan
    assert plan.exact
    assert (plan.tokens.least, plan.tokens.most, plan.train_steps.expected) == (80_000, 80_000, 10)
    assert plan.steps["train"].seconds == pytest.approx(900, rel=0.1)
    assert {(step.basis, step.jobs) for step in plan.steps.values()} == {("measured", 3)}
    assert plan.minutes.expected == pytest.approx((900 + 40) / 60, rel=0.1)
    (done,) = [event for event in planned.services.store.events(last.job_id) if event.type == "prepare_done"]
    assert done.details["plan"]["tokens"]["expected"] == 80_000


def test_a_job_of_another_kind_is_still_an_estimate(planned: World) -> None:
    run(planned, 10_000, seconds=100)
    plan = plan_of(planned, training={"method": "QLoRA"})
    assert (plan.steps["train"].basis, plan.steps["prepare"].basis) == ("estimated", "measured")


def test_a_folder_whose_weights_are_a_link_to_nothing_has_a_plan_without_a_size(tmp_path: Path) -> None:
    world = World(tmp_path / "home")  # local folders are for a workstation
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gemma3_text"}')
    (folder / "model.safetensors").symlink_to(tmp_path / "removed")
    assert plan_of(world, training={"base_model_id": str(folder)}).memory is None


def test_a_model_in_a_bucket_has_a_plan_with_its_size(planned: World) -> None:
    data = planned.services.buckets.data
    data.write("models/mine/config.json", b'{"model_type": "gemma3_text", "dtype": "bfloat16"}')
    data.write("models/mine/model.safetensors", b"x" * 1000)
    plan = plan_of(planned, training={"base_model_id": f"gs://{data.bucket}/models/mine"})
    assert plan.memory is not None
    assert plan.minutes is not None
    data.write("models/empty/config.json", b'{"model_type": "gemma3_text"}')
    assert plan_of(planned, training={"base_model_id": f"gs://{data.bucket}/models/empty"}).memory is None


def test_the_size_of_a_model_of_the_hub_is_known_by_its_name_or_by_an_earlier_copy(world: World) -> None:
    def facts_of(model: str) -> Facts:
        return world.services.submit.rehearse(reading(training={"base_model_id": model}), owner="local")[1]

    assert facts_of("google/gemma-3-1b-it").size is not None
    assert facts_of("someone/secret-sauce").size is None
    export, folder = world.services.buckets.export, "models/someone--secret-sauce/abc"
    export.write(f"{folder}/config.json", b'{"model_type": "gemma3_text", "dtype": "bfloat16"}')
    export.write(f"{folder}/model.safetensors", b"x" * 1000)
    size = facts_of("someone/secret-sauce").size
    assert size is not None
    assert size.file_bytes == 1000
