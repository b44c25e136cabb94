"""Quotas of Cloud Run, compared with what a deployment needs.

Google checks a job or function when it is created: one execution, or all instances of a function, must fit into the
project's quota of the region. A new project has 20 CPUs and 40 GiB in many regions.
https://cloud.google.com/run/quotas
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.deployment import Deployment
from deploy.tools import Failed, Refused, read

CPU, MEMORY = "CpuAllocPerProjectRegion", "MemAllocPerProjectRegion"
GPUS = {
    "nvidia-l4": ("NvidiaL4GpuAllocNoZonalRedundancyPerProjectRegion", 1),
    "nvidia-rtx-pro-6000": ("NvidiaRtxPro6000GpuAllocNoZonalRedundancyPerProjectRegion", 1000),  # in thousandths
}
GIB = 1024**3
CONSOLE = "https://console.cloud.google.com/iam-admin/quotas?project={project}&service=run.googleapis.com"


@dataclass(frozen=True, slots=True)
class Need:
    """Resources of a job's execution, or of all instances of a function."""

    name: str
    cpus: float
    memory_gib: float
    accelerator: str | None = None


def needs(capacity: Mapping[str, Any]) -> list[Need]:
    """Return the needs in Terraform's output `capacity`."""
    jobs = [Need(name, job["cpus"], job["memory_gib"], job["accelerator"]) for name, job in capacity["jobs"].items()]
    functions = [
        Need(name, function["instances"], function["instances"] * _gib(function["memory"]))
        for name, function in capacity["functions"].items()
    ]
    return jobs + functions


def _gib(memory: str) -> float:
    """Return a Kubernetes quantity in GiB."""
    units = {"Mi": 1 / 1024, "Gi": 1.0}
    return float(memory[:-2]) * units[memory[-2:]]


def check(deployment: Deployment, capacity: Mapping[str, Any]) -> None:
    """Compare needs with quotas, and print what does not fit.

    Raises Refused if Google would refuse a part. Only prints a note if gcloud cannot list the quotas.
    """
    try:
        limits = _limits(deployment)
    except (Failed, ValueError, KeyError, TypeError) as error:
        print(f"note: the quotas of Cloud Run could not be read ({error}); see docs/deployment.md#quotas")
        return
    problems = list(_problems(needs(capacity), limits))
    for note in _notes(needs(capacity), limits):
        print(f"note: {note}")
    if problems and deployment.check_quotas:
        console = CONSOLE.format(project=deployment.project_id)
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise Refused(
            f"the quotas of Cloud Run in {deployment.region} are too small:{lines}\nAsk for more at {console}, or "
            "leave the machine out of `machines` in terraform/terraform.tfvars. IGNORE_QUOTAS=yes deploys nevertheless."
        )


def _problems(needed: Sequence[Need], limits: Mapping[str, float]) -> Iterator[str]:
    for need in needed:
        cpus, memory = limits.get(CPU), limits.get(MEMORY)
        if cpus is not None and need.cpus * 1000 > cpus:
            yield f"{need.name} needs {need.cpus:g} CPUs; the project has {cpus / 1000:g} ({CPU})"
        if memory is not None and need.memory_gib * GIB > memory:
            yield f"{need.name} needs {need.memory_gib:g} GiB; the project has {memory / GIB:g} ({MEMORY})"


def _notes(needed: Sequence[Need], limits: Mapping[str, float]) -> Iterator[str]:
    for accelerator in sorted({need.accelerator for need in needed if need.accelerator is not None}):
        quota, one = GPUS[accelerator]
        if limits.get(quota, 0) < one:
            yield (
                f"the project has no quota for {accelerator} yet ({quota}). Google grants some to most projects with "
                "their first deployment; ask for it if jobs stay in the queue"
            )
    functions = [need for need in needed if need.name not in _jobs(needed)]
    largest = max(_jobs(needed).values(), key=lambda need: need.cpus, default=None)
    if largest is not None and CPU in limits:
        left = limits[CPU] / 1000 - largest.cpus - sum(need.cpus for need in functions)
        if left < 0:
            yield (
                f"the largest job and all instances of all functions need {-left:g} CPUs more than the quota: under "
                "load calls wait, and jobs take turns"
            )


def _jobs(needed: Sequence[Need]) -> dict[str, Need]:
    return {need.name: need for need in needed if need.name.split("-")[1] in ("prepare", "train", "export")}


def _limits(deployment: Deployment) -> dict[str, float]:
    """Return the limits of the region by quota ID. Raises Failed, ValueError."""
    listed = json.loads(
        read(
            *("gcloud", "beta", "quotas", "info", "list", "--service=run.googleapis.com", "--format=json"),
            f"--project={deployment.project_id}",
        )
        or "[]"
    )
    limits = {}
    for quota in listed:
        value = _in_region(quota.get("dimensionsInfos", ()), deployment.region)
        if value is not None:
            limits[quota["quotaId"]] = value
    return limits


def _in_region(infos: Sequence[Mapping[str, Any]], region: str) -> float | None:
    """Return a quota's value in a region: its own, or that of a group with it."""
    own = [info for info in infos if info.get("dimensions", {}).get("region") == region]
    grouped = [info for info in infos if region in info.get("applicableLocations", ())]
    for info in (*own, *grouped):
        value = info.get("details", {}).get("value")
        if value is not None:
            return float("inf") if int(value) < 0 else float(value)  # -1: no limit
    return None
