"""Cost of a job's steps on Cloud Run, by the dated price list in prices.json.

It is an estimate, not a bill.
"""

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
    """Return the prices of machine parts in USD per second.

    The parts are a vCPU, a GiB of memory, and each accelerator. A price is None where it is not known.
    """
    usd_by_part: dict[str, float | None] = json.loads(PRICES.read_text())["usd_per_second"]
    return usd_by_part


def price_list() -> str:
    """Return the date and the region of the price list."""
    prices_file = json.loads(PRICES.read_text())
    return f"{prices_file['date']}, {prices_file['region']}"


def usd_per_second(machine: Machine) -> float | None:
    """Return the price of a machine in USD per second.

    None if the price of a part is not known.
    """
    parts = {"vcpu": machine.cpus, "gib": machine.memory_gib} | ({} if machine.gpu is None else {machine.gpu: 1})
    costs = [None if (price := prices().get(name)) is None else price * count for name, count in parts.items()]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _machine_of(job: Job, step: Step | str) -> Machine | None:
    """Return the machine that runs a step of the job.

    None if this version does not know it.
    """
    if step is Step.TRAIN:
        return MACHINES.get(job.machine or "")
    if step is Step.EXPORT and job.export_machine is not None:
        return MACHINES.get(job.export_machine)
    return CPU_STEPS[step] if isinstance(step, Step) else None


def of_job(job: Job) -> float | None:
    """Return the cost of the job's steps so far in USD.

    It is rounded to a hundredth of a cent. None if a machine or its price is not known. The time of a step counts from
    its beginning: the seconds in which an instance starts are billed as well, but not known here.
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
