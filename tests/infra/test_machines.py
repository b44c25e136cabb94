"""Terraform creates the machines of functions/gemtune/machines/choice.py."""

from __future__ import annotations

from typing import Any

from gemtune.machines.choice import CPU_STEPS, MACHINES, WITH_MORE_MEMORY, Machine
from tests.infra.planned import Planned


def limits(machine: Machine) -> dict[str, str]:
    gpu = {} if machine.gpu is None else {"nvidia.com/gpu": "1"}
    return {"cpu": str(machine.cpus), "memory": f"{machine.memory_gib}Gi"} | gpu


def task(job: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the container of a Cloud Run job and its accelerators."""
    (template,) = job["template"][0]["template"]
    return template["containers"][0], [selector["accelerator"] for selector in template["node_selector"] or []]


def test_each_step_has_the_machine_that_the_estimates_assume(applied: Planned, plan: Planned) -> None:
    steps = {f"gemtune-{step}": machine for step, machine in CPU_STEPS.items()}  # by default
    machines = steps | {f"gemtune-train-{name}": machine for name, machine in MACHINES.items()}
    machines |= {f"gemtune-export-{name}": MACHINES[name] for name in WITH_MORE_MEMORY}
    jobs = applied.named("google_cloud_run_v2_job")
    assert set(jobs) == set(machines)
    jobs |= {name: plan.one("google_cloud_run_v2_job", name) for name in steps}
    for name, machine in machines.items():
        container, accelerators = task(jobs[name])
        assert container["resources"][0]["limits"] == limits(machine)
        assert accelerators == ([] if machine.gpu is None else [machine.gpu])
        assert f"/{machine.image}@sha256:" in container["image"]


def test_by_default_there_is_one_machine_with_the_smallest_gpu(plan: Planned) -> None:
    """New projects have no quota for more."""
    assert set(plan.named("google_cloud_run_v2_job")) == {"gemtune-prepare", "gemtune-train-l4", "gemtune-export"}
