"""The plan keeps all policies; planted mistakes are in test_mistakes.py."""

from __future__ import annotations

import pytest

from gemtune.machines.choice import MACHINES
from tests.infra.planned import Planned
from tests.infra.policies import POLICIES, Policy
from tests.infra.settings_needed import (
    COUNTED_IN,
    EVERY,
    IF_ASKED_FOR,
    NOT_DEPLOYED,
    SOME,
    read_by_settings,
    services_that_count_cost,
)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_the_plan_keeps_the_policy(policy: Policy, plan: Planned) -> None:
    assert list(policy(plan)) == []


def test_every_variable_that_settings_read_is_listed() -> None:
    assert read_by_settings() == {*EVERY, *SOME, *IF_ASKED_FOR, *NOT_DEPLOYED}


def test_every_component_that_counts_cost_gets_the_stated_prices() -> None:
    assert services_that_count_cost() == set(COUNTED_IN)
    assert set().union(*COUNTED_IN.values()) == IF_ASKED_FOR["GEMTUNE_USD_PER_HOUR"]


def test_the_machines_match_those_that_jobs_are_placed_on(applied: Planned) -> None:
    jobs = applied.named("google_cloud_run_v2_job")
    trains = {name.removeprefix("gemtune-train-"): job for name, job in jobs.items() if "-train-" in name}
    assert set(trains) == set(MACHINES)
    for name, job in trains.items():
        machine, template = MACHINES[name], job["template"][0]["template"][0]
        limits = template["containers"][0]["resources"][0]["limits"]
        gpus = {} if machine.gpu is None else {"nvidia.com/gpu": "1"}
        assert limits == {"cpu": str(machine.cpus), "memory": f"{machine.memory_gib}Gi"} | gpus
        accelerators = [selector["accelerator"] for selector in template["node_selector"]]
        assert accelerators == ([] if machine.gpu is None else [machine.gpu])
        assert template["gpu_zonal_redundancy_disabled"] is (None if machine.gpu is None else True)


def test_the_smallest_machine_comes_first_and_the_one_without_a_gpu_last(applied: Planned) -> None:
    named = applied.settings_of("gemtune-control")["GEMTUNE_MACHINES"].split(",")
    assert named == ["l4", "rtx-pro-6000", "cpu"]
