"""Cost of a job's steps on Cloud Run, by the dated price list in prices.json.

It is an estimate, not a bill.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from gemtune.errors import Problem
from gemtune.jobs.record import Job, StepRecord
from gemtune.jobs.status import Step
from gemtune.machines.choice import CPU_STEPS, LOCAL, MACHINES, WITH_MORE_MEMORY, Machine

PRICES = Path(__file__).parent / "prices.json"
# Environment variable with the prices that a deployment states.
STATED = "GEMTUNE_USD_PER_HOUR"
# Region of the prices in docs/, and of the price list that a workstation's plans name.
DEFAULT_REGION = "us-central1"


@lru_cache(maxsize=64)
def list_prices(region: str) -> Mapping[str, float]:
    """Return the known prices of machine parts in a region, in USD per second.

    The parts are a vCPU, a GiB of memory, and each accelerator. CPUs and memory have the price of the region's tier;
    accelerators are listed by region.
    """
    prices_file = _prices_file()
    prices: Mapping[str, Mapping[str, float]] = prices_file["usd_per_second"]
    tiers = [tier for tier, regions in prices_file["regions"].items() if region in regions.split()]
    return {part: price for name in (*tiers, region) for part, price in prices.get(name, {}).items()}


def price_list(region: str = DEFAULT_REGION) -> str:
    """Return the date of the price list and the region of its prices."""
    return f"{_prices_file()['date']}, {region}"


@cache
def _prices_file() -> Mapping[str, Any]:
    """Return the content of prices.json."""
    content: Mapping[str, Any] = json.loads(PRICES.read_text())
    return content


def usd_per_second(machine: Machine, region: str = DEFAULT_REGION) -> float | None:
    """Return the list price of a machine in USD per second.

    None if the price of a part is not known in the region.
    """
    parts = {"vcpu": machine.cpus, "gib": machine.memory_gib} | ({} if machine.gpu is None else {machine.gpu: 1})
    prices = list_prices(region)
    return sum(prices[name] * count for name, count in parts.items()) if parts.keys() <= prices.keys() else None


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of machines: those that the deployment states, else list prices.

    region: of the deployment; list prices differ by region. stated: USD per hour by kind of machine. The kinds are the
    machine types, `local`, and `prepare`, `export` and `export-<machine type>` for the machines of these steps.
    """

    stated: Mapping[str, float] = field(default_factory=dict)
    region: str = DEFAULT_REGION

    @property
    def origin(self) -> str:
        """Return date and region of the list, and whose prices are stated."""
        return "; stated: ".join(filter(None, (price_list(self.region), ", ".join(sorted(self.stated)))))

    def usd_per_second(self, kind: str | None) -> float | None:
        """Return the price of a kind of machine in USD per second.

        None if it is not known, as for a workstation whose price is not stated.
        """
        if kind is None:
            return None
        # A large model's export runs on a training machine, whose price it has.
        for name in (kind, kind.removeprefix(f"{Step.EXPORT}-")):
            if name in self.stated:
                return self.stated[name] / 3600
        machine = _MACHINES_BY_KIND.get(kind)
        return None if machine is None else usd_per_second(machine, self.region)

    def of_step(self, job: Job, step: Step | str) -> float | None:
        """Return the price of the machine that runs a step of a job.

        None if the machine or its price is not known.
        """
        return self.usd_per_second(kind_of(step, job.machine, job.export_machine))

    def unpriced(self, kinds: Iterable[str | None]) -> list[str]:
        """Return the kinds of machines whose price is not known, sorted."""
        return sorted({kind for kind in kinds if kind is not None and self.usd_per_second(kind) is None})

    def unknown(self, kind: str | None, *, requested: bool) -> Problem:
        """Return the problem of a cap in dollars on a machine without a price.

        requested: whether the cap is the request's, which can do without it, and not one that the operator has set.
        """
        choices = ["max_hours instead"] if requested else []
        if kind == LOCAL:
            place, state = "", f"state its price per hour when the service starts: {STATED}={kind}=2.50"
        else:
            choices.append("a machine whose price is known")
            place = f" in {self.region}"
            state = f"let the operator state it: usd_per_hour in terraform.tfvars, which sets {STATED}"
        hint = f"use {', or '.join(choices)}; or {state}" if choices else state
        return Problem(("max_cost_usd",), f"the price of machine {kind}{place} is not known", "price_unknown", hint)


def kind_of(step: Step | str, machine: str | None, export_machine: str | None) -> str | None:
    """Return the kind of machine that runs a step; None if it is unknown.

    machine: kind that trains. export_machine: training machine that exports; None for the usual one.
    """
    if machine == LOCAL:
        return LOCAL
    if step == Step.TRAIN:
        return machine
    return step if step != Step.EXPORT or export_machine is None else f"{step}-{export_machine}"


_MACHINES_BY_KIND: Mapping[str, Machine] = {
    **MACHINES,
    **CPU_STEPS,
    **{f"{Step.EXPORT}-{name}": MACHINES[name] for name in WITH_MORE_MEMORY},
}


LIST_PRICES = Prices()


@dataclass(frozen=True, slots=True)
class Spending:
    """Time of a job's machines and its cost.

    usd: None if a machine or its price is not known.
    """

    seconds: float
    usd: float | None


def spending(job: Job, prices: Prices, *, with_running: bool = True) -> Spending:
    """Return what a job's attempts took, each from its start to its end.

    An attempt that runs counts up to its last heartbeat. The time in which the platform starts an instance is not known
    here.
    with_running: whether the running attempt counts.
    """
    seconds, usd = 0.0, 0.0 if job.machine != LOCAL or LOCAL in prices.stated else None
    for step, record in job.steps.items():
        # Older versions wrote negative durations where the clock was set back.
        lasted = max(0.0, record.seconds) + (_seconds_so_far(record) if with_running else 0.0)
        if lasted <= 0:
            continue
        price = prices.of_step(job, step)
        seconds += lasted
        usd = None if usd is None or price is None else usd + lasted * price
    return Spending(round(seconds, 3), None if usd is None else round(usd, 6))


def _seconds_so_far(record: StepRecord) -> float:
    """Return the duration of the attempt that runs, or 0 if none does."""
    if record.state != "running" or record.started_at is None or record.heartbeat_at is None:
        return 0.0
    return max(0.0, (record.heartbeat_at - record.started_at).total_seconds())
