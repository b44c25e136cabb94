"""Warnings about what a plan says of its job. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gemtune.jobs.parts.plan import Plan
from gemtune.jobs.parts.results import JobWarning
from gemtune.machines import cap_policy
from gemtune.machines.choice import LOCAL


def warnings_of(plan: Plan, max_cost_usd: float | None, max_hours: float | None) -> Iterator[JobWarning]:
    """Yield warnings about memory and about caps.

    Only a workstation can lack memory: on Google Cloud such a job is refused, or its machine is chosen by memory.
    """
    yield from _memory_warnings(plan)
    yield from cap_policy.warnings_of(plan, max_cost_usd, max_hours)


def _memory_warnings(plan: Plan) -> Iterator[JobWarning]:
    memory = plan.memory
    if plan.machine != LOCAL or memory is None or memory.main_available is None:
        return
    if memory.main_needed <= memory.main_available:
        return
    rows = "" if plan.exact else " with rows as long as max_seq_length allows"
    message = (
        f"on a CPU the training needs an estimated {memory.main_needed:.1f} GiB of memory{rows}, and this machine has "
        f"{memory.main_available:.1f}: it may be killed"
    )
    changes = ", or ".join(each.change for each in plan.alternatives if each.fits)
    advice = f"this would fit: {changes}" if changes else "use a smaller base model"
    yield JobWarning(code="memory_below_plan", message=message, hint=f"{advice}; or a machine with more memory")
