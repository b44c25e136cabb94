"""Warnings about trainings that need more memory than a workstation has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemtune.handlers import routes
from gemtune.jobs.parts.plan import MemoryPlan
from gemtune.jobs.parts.results import JobWarning, StepResult
from gemtune.jobs.status import Step
from gemtune.machines.memory import memory_for_training
from gemtune.machines.model_size import by_name
from gemtune.machines.plan_warnings import warnings_of as warnings_of_plan
from gemtune.request.placement import load_of
from gemtune.services.planning.planner import Workstation
from tests.fakes import World, reading
from tests.services.test_running import Running

LARGE = "google/gemma-3-27b-it"
FULL: dict[str, Any] = {"training": {"base_model_id": LARGE, "method": "Full"}}


def world_with(home: Path, memory_gib: float | None) -> World:
    world = World(home)
    world.services.__dict__["planner"] = replace(world.services.planner, workstation=Workstation(8, memory_gib))
    return world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return world_with(tmp_path / "home", 24.0)


def warnings_of(world: World, **fields: Any) -> tuple[JobWarning, ...]:
    return tuple(world.services.store.get(world.submit(**fields)).warnings)


def needed_by(**fields: Any) -> float:
    spec, size = reading(**fields).require_readable().spec(), by_name(LARGE)
    assert size is not None
    return memory_for_training(size, load_of(spec.training_config, "text")).host_without_gpu


def test_a_training_that_needs_more_memory_than_there_is_is_accepted_with_a_warning(world: World) -> None:
    (warning,) = warnings_of(world, **FULL)
    assert warning.code == "memory_below_plan"
    assert f"an estimated {needed_by(**FULL):.1f} GiB" in warning.message
    assert "this machine has 24.0" in warning.message
    assert warning.hint is not None
    assert "google/gemma-3-" in warning.hint
    assert warnings_of(world) == ()  # the 270M


def test_the_plan_of_a_request_has_the_same_warning(world: World) -> None:
    spec, facts = world.services.submit.rehearse(reading(**FULL), owner="local")
    assert world.services.planner.warnings(spec, facts) == warnings_of(world, **FULL)


def test_the_hint_names_changes_that_fit(world: World) -> None:
    small = {"training": {"base_model_id": "google/gemma-3-4b-it"}}
    (warning,) = warnings_of(world, **small)
    assert str(warning.hint).startswith("this would fit: batch_size 1")


def test_there_is_no_warning_where_the_memory_suffices_or_is_unknown(tmp_path: Path) -> None:
    needed = needed_by(**FULL)
    assert warnings_of(world_with(tmp_path / "exact", needed), **FULL) == ()
    assert [each.code for each in warnings_of(world_with(tmp_path / "less", needed - 1), **FULL)] != []
    assert warnings_of(world_with(tmp_path / "unknown", None), **FULL) == ()


def test_there_is_no_warning_of_a_machine_that_was_chosen_by_its_memory(world: World) -> None:
    plan = world.services.planner.of_request(*world.services.submit.rehearse(reading(**FULL), owner="local"))
    assert [each.code for each in warnings_of_plan(plan, None, None)] == ["memory_below_plan"]
    assert list(warnings_of_plan(plan.model_copy(update={"machine": "l4"}), None, None)) == []


def test_a_cap_is_warned_of_as_well(world: World) -> None:
    row = '{"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]}\n'
    world.services.buckets.data.write("processed_datasets/chats/train.jsonl", row.encode() * 5000)
    codes = [each.code for each in warnings_of(world, max_hours=0.01, **FULL)]
    assert codes == ["memory_below_plan", "cap_below_plan"]


def test_after_prepare_the_counted_rows_decide(world: World) -> None:
    plan = world.services.planner.of_request(*world.services.submit.rehearse(reading(), owner="local"))
    for needed, codes in ((23.9, []), (24.1, ["memory_below_plan"])):
        running = Running(world, **FULL)
        assert [each.code for each in running.job.warnings] == ["memory_below_plan"]
        memory = MemoryPlan(gpu_needed=None, gpu_available=None, main_needed=needed, main_available=24.0)
        counted = plan.model_copy(update={"memory": memory, "exact": True})
        world.services.advance.finish(running.job_id, running.begin(Step.PREPARE), StepResult(plan=counted))
        assert [each.code for each in running.job.warnings] == codes
        assert [each.code for each in routes.plan(world.services, job_id=running.job_id).warnings] == codes
        assert all("max_seq_length" not in each.message for each in running.job.warnings)
