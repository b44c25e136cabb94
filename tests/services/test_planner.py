"""The planner: keys of speeds, reasons, alternatives, and what it learns."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemtune.families.size import ModelSize
from gemtune.jobs.parts.metrics import Progress
from gemtune.jobs.parts.plan import Alternative, Plan, StepEstimate, Workload
from gemtune.jobs.record import Job, StepRecord
from gemtune.jobs.status import Step
from gemtune.machines import model_size
from gemtune.machines.choice import MACHINES
from gemtune.machines.cost import Prices
from gemtune.machines.memory import memory_for_training
from gemtune.machines.throughput import Observation, Speed
from gemtune.request.placement import load_of
from gemtune.request.spec import Spec, TrainRequest
from gemtune.services.planning import measured_speeds
from gemtune.services.planning.measured_speeds import MeasuredSpeeds
from gemtune.services.planning.planner import Planner, Workstation
from tests.fakes import World, reading
from tests.unit.jobs.test_job import new

SMALL = "google/gemma-3-270m-it"
HOUR = 3600


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a world on one backend: plans do not depend on it."""
    return World(tmp_path / "home")


def planner_of(world: World, *machines: str, memory_gib: float | None = 64.0) -> Planner:
    speeds = MeasuredSpeeds(world.services.shared)
    timeouts = dict.fromkeys(Step, HOUR)
    return Planner(speeds, world.services.buckets, machines, timeouts, Workstation(8, memory_gib))


def size_of(model: str) -> ModelSize:
    size = model_size.by_name(model)
    assert size is not None
    return size


def spec_of(model: str = SMALL, export: str = "adapter", **training: Any) -> Spec:
    document = {
        "processed_dataset_id": "chats",
        "modality": training.pop("modality", "text"),
        "training_config": {"base_model_id": model} | training,
        "export_config": {"format": export},
    }
    return TrainRequest.model_validate(document).spec()


def plan_of(
    planner: Planner,
    spec: Spec,
    machine: str | None,
    *,
    tokens: int = 10**6,
    rows_tokens: int | None = None,
    export_machine: str | None = None,
) -> Plan:
    size = model_size.by_name(spec.training_config.base_model_id)
    workload = Workload(train_steps=40, tokens=tokens, longest_row=500, rows_tokens=rows_tokens or tokens)
    return planner.of_workload(spec, size, workload, machine, export_machine)


def test_a_workstation_knows_its_cores_and_its_memory_unless_the_system_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 3 * 2**18}
    monkeypatch.setattr(os, "sysconf", values.__getitem__)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert Workstation.here() == Workstation(6, 3.0)

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert Workstation.here() == Workstation(1, None)


def test_steps_are_estimated_from_the_hardware_and_kept_under_what_decides_their_speed(world: World) -> None:
    planner, size = planner_of(world, "l4"), size_of(SMALL)
    spec = spec_of(max_seq_length=1000, export="gguf")
    plan = plan_of(planner, spec, "l4")
    assert {step: each.key for step, each in plan.steps.items()} == {
        "prepare": f"prepare {SMALL}",
        "train": f"train {SMALL} LoRA 1024",
        "export": f"export {SMALL} gguf {spec.quantization}",
    }
    copied = size.file_bytes / 1e8
    assert {step: each.seconds for step, each in plan.steps.items()} == {
        "prepare": pytest.approx(60 + 2 * copied + 10, abs=0.1),
        "train": pytest.approx(60 + copied + 6e6 * size.parameters / (0.35 * 121e12), abs=0.1),
        "export": pytest.approx(60 + 2 * copied, abs=0.1),
    }
    assert plan.exact
    assert (plan.tokens, plan.train_steps) != (None, None)


@pytest.mark.parametrize(
    ("training", "key"),
    [
        ({}, "LoRA 2048"),
        ({"max_seq_length": 512}, "LoRA 512"),
        ({"max_seq_length": 513}, "LoRA 1024"),
        ({"method": "RL", "rl_config": {"algorithm": "dpo"}}, "RL dpo 2048"),
        ({"provider": "unsloth"}, "LoRA unsloth 2048"),
        ({"modality": "vision"}, "LoRA vision 2048"),
        ({"modality": "audio", "provider": "unsloth"}, "LoRA audio unsloth 2048"),
    ],
)
def test_speeds_are_told_apart_by_all_that_decides_them(world: World, training: dict[str, Any], key: str) -> None:
    plan = plan_of(planner_of(world, "l4"), spec_of(**training), "l4")
    assert plan.steps["train"].key == f"train {SMALL} {key}"


@pytest.mark.parametrize(("tokens", "restarts"), [(10**5, 0), (10**6, 1)])
def test_training_takes_the_cores_of_a_workstation_and_loads_the_model_anew_every_hour(
    world: World, tokens: int, restarts: int
) -> None:
    size = size_of(SMALL)
    plan = plan_of(planner_of(world, "local"), spec_of(), "local", tokens=tokens)
    loading = 10 + size.file_bytes / 1e8
    computing = 6 * tokens * size.parameters / (0.35 * 8e11)
    assert plan.steps["train"].seconds == pytest.approx((1 + restarts) * loading + computing, abs=0.1)
    assert plan.usd is not None
    assert plan.usd.most == 0


@pytest.mark.parametrize(
    ("machine", "training", "reason"),
    [
        (None, {}, "prepare chooses it, since the size of the model is not known yet"),
        ("local", {}, "this machine is the only one"),
        ("l4", {"machine": "l4"}, "the request names it"),
        ("l4", {}, "the first of l4, rtx-pro-6000 with enough memory"),
    ],
)
def test_a_plan_says_why_its_machine_was_chosen(
    world: World, machine: str | None, training: dict[str, Any], reason: str
) -> None:
    assert plan_of(planner_of(world, "l4", "rtx-pro-6000"), spec_of(**training), machine).machine_reason == reason


def test_other_machines_are_alternatives_with_their_own_time_and_price(world: World) -> None:
    planner, spec = planner_of(world, "local", "cpu", "l4"), spec_of()
    other = plan_of(planner, spec, "cpu")
    assert other.minutes is not None
    assert other.usd is not None
    expected = Alternative(change="machine cpu", fits=True, minutes=other.minutes.expected, usd=other.usd.expected)
    plan = plan_of(planner, spec, "l4")
    assert plan.alternatives == (expected,)
    assert plan.minutes != other.minutes
    assert {each.change for each in plan_of(planner, spec, "local").alternatives} == {
        "machine cpu",
        "machine l4",
    }


def test_changes_that_fit_are_alternatives_to_a_machine_that_is_too_small(world: World) -> None:
    planner = planner_of(world, "l4", "rtx-pro-6000")
    machine, *changes = plan_of(planner, spec_of("google/gemma-3-12b-it", method="Full"), "l4").alternatives
    assert (machine.change, machine.fits) == ("machine rtx-pro-6000", False)
    assert changes
    assert all(each.fits for each in changes)
    assert {(each.minutes, each.usd) for each in changes} == {(None, None)}  # their speed is not measured
    assert "method" in changes[-1].change


def test_a_larger_machine_is_said_to_fit(world: World) -> None:
    planner = planner_of(world, "l4", "rtx-pro-6000")
    machine, *changes = plan_of(planner, spec_of("google/gemma-3-12b-it"), "l4").alternatives
    assert (machine.change, machine.fits) == ("machine rtx-pro-6000", True)
    assert [each.change for each in changes] == ["method QLoRA"]


@pytest.mark.parametrize("name", ["270m", "1b", "4b", "12b", "27b"])
def test_the_largest_model_that_fits_is_proposed_where_no_change_does(world: World, name: str) -> None:
    """Give a workstation exactly the memory that a model needs."""
    model, spec = f"google/gemma-3-{name}-it", spec_of("google/gemma-4-31B-it", method="QLoRA", batch_size=1)
    load = replace(load_of(spec.training_config, "text"), length=500)
    needed = memory_for_training(size_of(model), load).host_without_gpu
    proposed = Alternative(change=f"base_model_id {model}", fits=True, minutes=None, usd=None)
    assert plan_of(planner_of(world, "local", memory_gib=needed), spec, "local").alternatives == (proposed,)
    less = plan_of(planner_of(world, "local", memory_gib=needed - 0.01), spec, "local")
    assert (less.alternatives == ()) is (name == "270m")
    assert proposed not in less.alternatives


def test_the_plan_of_a_model_of_unknown_size_leaves_time_cost_and_memory_open(world: World) -> None:
    plan = plan_of(planner_of(world, "l4", "rtx-pro-6000"), spec_of("me/mine"), "l4")
    assert (plan.alternatives, plan.memory, plan.steps, plan.minutes, plan.usd) == ((), None, {}, None, None)
    assert plan_of(planner_of(world, "l4", "rtx-pro-6000"), spec_of(), None).alternatives == ()


@pytest.mark.parametrize(("memory_gib", "fits"), [(None, True), (1000.0, True), (24.0, False)])
def test_the_memory_of_a_workstation_decides_unless_it_is_unknown(
    world: World, memory_gib: float | None, fits: bool
) -> None:
    spec = spec_of("google/gemma-3-4b-it", method="Full")
    plan = plan_of(planner_of(world, "local", memory_gib=memory_gib), spec, "local")
    assert (plan.alternatives == ()) is fits
    assert plan.memory is not None
    assert plan.memory.main_available == memory_gib


def test_completions_make_the_longest_row_longer(world: World) -> None:
    planner, rl = planner_of(world, "l4"), {"algorithm": "grpo", "max_completion_length": 4000}
    short = plan_of(planner, spec_of(method="RL", rl_config=rl | {"max_completion_length": 1}), "l4")
    long = plan_of(planner, spec_of(method="RL", rl_config=rl), "l4")
    assert short.memory is not None
    assert long.memory is not None
    assert (short.memory.gpu_needed or 0) < (long.memory.gpu_needed or 0)


def test_the_price_of_an_export_is_that_of_its_machine(world: World) -> None:
    planner = replace(planner_of(world, "l4"), prices=Prices({"rtx-pro-6000": 3.6, "export": 0.36}))
    usual, large = (plan_of(planner, spec_of(), "l4", export_machine=machine) for machine in (None, "rtx-pro-6000"))
    assert usual.usd is not None
    assert large.usd is not None
    seconds = usual.steps["export"].seconds
    assert large.usd.expected - usual.usd.expected == pytest.approx(seconds * (0.001 - 0.0001), abs=2e-4)


def test_a_plan_names_the_machines_whose_price_is_unknown_and_what_to_do(world: World) -> None:
    planner = replace(planner_of(world, "l4"), prices=Prices(region="europe-west1"))
    plan = plan_of(planner, spec_of(), "l4")
    assert (plan.usd, plan.minutes is None) == (None, False)
    assert plan.prices.endswith(
        ", europe-west1; the price of l4 there is not known, until the operator states usd_per_hour"
    )
    stated = replace(planner, prices=Prices({"l4": 1.5}, "europe-west1"))
    assert plan_of(stated, spec_of(), "l4").usd is not None


ESTIMATE = StepEstimate(key="some key", seconds=1, basis="estimated", jobs=0)


def job_on(machine: str | None, *, state: str = "done", planned: bool = True, counted: bool = True) -> Job:
    """Return a job whose steps took 7 seconds each for 900 tokens.

    They are those of three epochs, each of 300.
    """
    plan = Plan.model_construct(steps={step.value: ESTIMATE for step in Step})
    workload = Workload(train_steps=1, tokens=900, longest_row=90, rows_tokens=300)
    steps = {step: StepRecord(state=state, seconds=7) for step in Step}
    return new(machine=machine, steps=steps).model_copy(
        update={"plan": plan if planned else None, "workload": workload if counted else None}
    )


def observations(world: World) -> dict[str, Any]:
    documents = world.services.shared
    return {name: documents.read(name) for name in documents.names("throughput/")}


@pytest.mark.parametrize(
    ("machine", "step", "document", "tokens"),
    [
        ("l4", Step.PREPARE, "throughput/prepare", 300),
        ("l4", Step.TRAIN, "throughput/l4", 900),
        ("l4", Step.EXPORT, "throughput/export", 0),
        ("local", Step.PREPARE, "throughput/local", 300),
        ("local", Step.EXPORT, "throughput/local", 0),
        (None, Step.TRAIN, "throughput/local", 900),
    ],
)
def test_a_finished_step_is_kept_under_its_machine(
    world: World, machine: str | None, step: Step, document: str, tokens: int
) -> None:
    planner_of(world, "l4").record(job_on(machine), step)
    body = f'{{"some key":[{{"tokens":{tokens}.0,"seconds":7.0}}]}}'
    assert observations(world) == {document: body}


@pytest.mark.parametrize(("done", "tokens"), [(None, 900), (0, 900), (10, 900), (5, 450), (12, 900)])
def test_a_training_that_stopped_early_counts_with_the_tokens_that_it_took(
    world: World, done: int | None, tokens: int
) -> None:
    job = job_on("l4")
    workload = Workload(train_steps=10, tokens=900, longest_row=90)
    progress = None if done is None else Progress(train_step=done, total_steps=10)
    planner_of(world, "l4").record(job.model_copy(update={"workload": workload, "progress": progress}), Step.TRAIN)
    assert f'"tokens":{tokens}.0' in observations(world)["throughput/l4"]


def test_a_prepare_step_without_a_count_of_its_rows_is_not_kept(world: World) -> None:
    """Such a job was counted by an older version."""
    job = job_on("l4")
    workload = Workload(train_steps=1, tokens=900, longest_row=90)
    planner_of(world, "l4").record(job.model_copy(update={"workload": workload}), Step.PREPARE)
    assert observations(world) == {}


@pytest.mark.parametrize("exact", [False, True])
def test_prepare_takes_as_long_for_one_epoch_as_for_ten(world: World, exact: bool) -> None:
    """Count the rows once. Training takes longer, and the export does not."""
    services, seconds = world.services, list[dict[str, float]]()
    services.buckets.data.write("processed_datasets/chats/train.jsonl", b'{"text": "some words"}\n' * 100_000)
    for epochs in (1, 10):
        training = {"epochs": epochs}
        if exact:
            plan = plan_of(planner_of(world, "l4"), spec_of(**training), "l4", tokens=epochs * 10**6, rows_tokens=10**6)
        else:
            plan = services.planner.of_request(*services.submit.rehearse(reading(training=training), owner="local"))
        seconds.append({name: step.seconds for name, step in plan.steps.items()})
    once, often = seconds
    assert (once["prepare"], once["export"]) == (often["prepare"], often["export"])
    assert often["train"] > once["train"]


@pytest.mark.parametrize("lack", [{"state": "stopped"}, {"planned": False}, {"counted": False}])
def test_a_step_without_a_plan_or_an_end_is_not_kept(world: World, lack: dict[str, Any]) -> None:
    planner_of(world, "l4").record(job_on("l4", **lack), Step.TRAIN)
    assert observations(world) == {}


def test_the_newest_kinds_and_their_newest_jobs_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_speeds, "KINDS_KEPT", 2)
    monkeypatch.setattr(measured_speeds, "OBSERVATIONS_KEPT", 3)
    speeds, prior = MeasuredSpeeds(world.services.shared), Speed(10, 1)
    for key in ("a", "b", "a", "c"):  # `a` is newer than `b`
        speeds.record("l4", key, Observation(tokens=0, seconds=5))
    assert [speeds.speed("l4", key, prior).jobs for key in ("a", "b", "c")] == [2, 0, 1]
    assert speeds.speed("other", "a", prior) == prior
    for _ in range(4):
        speeds.record("l4", "a", Observation(tokens=0, seconds=20))
    assert speeds.speed("l4", "a", prior).jobs == 3
    assert speeds.speed("l4", "a", prior).fixed == pytest.approx(20, rel=0.05)


def test_the_limits_of_the_table_of_speeds() -> None:
    assert (measured_speeds.KINDS_KEPT, measured_speeds.OBSERVATIONS_KEPT) == (200, 20)
    assert set(MACHINES) == {"cpu", "l4", "rtx-pro-6000"}
