"""What a job's steps cost on Cloud Run, by the one dated list of prices. Pure; an estimate, not a bill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from gemtune.jobs.record import Job
from gemtune.jobs.status import Step
from gemtune.machines.choice import CPU_STEPS, MACHINES, Machine

PRICES = Path(__file__).parent / "prices.json"


@lru_cache(maxsize=1)
def prices() -> Mapping[str, float | None]:
    """USD a second: of a vCPU, of a GiB, and of each accelerator; None where it is not known."""
    found: dict[str, float | None] = json.loads(PRICES.read_text())["usd_per_second"]
    return found


def usd_per_second(machine: Machine) -> float | None:
    """USD that a machine costs a second, None when a price is not known."""
    parts = {"vcpu": machine.cpus, "gib": machine.memory_gib} | ({} if machine.gpu is None else {machine.gpu: 1})
    costs = [None if (price := prices().get(name)) is None else price * count for name, count in parts.items()]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _machine_of(job: Job, step: Step | str) -> Machine | None:
    if step is Step.TRAIN:
        return MACHINES.get(job.machine or "")
    if step is Step.EXPORT and job.export_machine is not None:
        return MACHINES.get(job.export_machine)
    return CPU_STEPS[step] if isinstance(step, Step) else None


def of_job(job: Job) -> float | None:
    """USD of what the job's steps ran so far, to a hundredth of a cent; None when a machine or its price is not known.

    Steps are counted from their begin: the seconds in which an instance starts are billed too, and not known here.
    """
    total = 0.0
    for step, record in job.steps.items():
        if record.seconds <= 0:  # older versions wrote negative ones where the clock was set back
            continue
        machine = _machine_of(job, step)
        price = None if machine is None else usd_per_second(machine)
        if price is None:
            return None
        total += record.seconds * price
    return round(total, 4)
